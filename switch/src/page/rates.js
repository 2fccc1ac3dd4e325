// From two snapshots to what was going on between them.
//
// All counters are totals since the switch started. Rates need the snapshot before; without one they are null.

/** Whether `now` is of another run of the switch than `before`. */
export function isRestart(before, now) {
  return before.pid !== now.pid || before.uptime_ms > now.uptime_ms;
}

const sum = (values) => values.reduce((total, value) => total + value, 0);
const sumOf = (counts) => sum(Object.values(counts ?? {}));

/** What `/status` said, with rates, loads and places. */
export function derive(before, now) {
  const seconds = before ? (now.uptime_ms - before.uptime_ms) / 1000 : 0;
  const time = { seconds, cycles: seconds * now.tsc_hz };
  const old = new Map((seconds > 0 ? before.ports : []).map((port) => [port.name, port]));
  const ports = now.ports.map((port) => derivePort(old.get(port.name), port, time));
  const cores = now.cores.map((core) => deriveCore(before, core, now.scheduler, ports, time));
  return {
    snapshot: now,
    ports,
    cores,
    guests: ports.filter((port) => port.kind === "guest"),
    uplinks: ports.filter((port) => port.kind === "uplink"),
    drops: dropsByReason(ports),
    totals: totals(ports),
  };
}

/** How much a counter rose in a second. One that fell belongs to a port that was removed and added again. */
function rate(before, now, seconds) {
  return before === undefined || seconds <= 0 || now < before ? null : (now - before) / seconds;
}

function derivePort(old, port, { seconds, cycles }) {
  const per = (read) => rate(old && read(old), read(port), seconds);
  const queues = port.queues.map((queue) => {
    const oldQueue = old?.queues.find((other) => other.index === queue.index);
    const perQueue = (read) => rate(oldQueue && read(oldQueue), read(queue), seconds);
    return {
      ...queue,
      load: share(perQueue((q) => q.busy_cycles), seconds, cycles),
      rxPackets: perQueue((q) => q.rx.packets),
      txPackets: perQueue((q) => q.tx.packets),
      before: oldQueue?.io_core ?? null,
    };
  });
  const loads = queues.map((queue) => queue.load).filter((load) => load !== null);
  const waits = queues.filter((queue) => queue.io_core !== null).map((queue) => queue.oldest_wait_ns).filter((wait) => wait !== null);
  return {
    ...port,
    queues,
    ioCores: [...new Set(queues.map((queue) => queue.io_core).filter((core) => core !== null))].sort((a, b) => a - b),
    load: loads.length > 0 ? sum(loads) : null,
    wait: waits.length > 0 ? Math.max(...waits) : null,
    rxPackets: per((p) => p.rx.packets),
    txPackets: per((p) => p.tx.packets),
    rxBits: times8(per((p) => p.rx.bytes)),
    txBits: times8(per((p) => p.tx.bytes)),
    pulled: per((p) => p.accounting.pulled),
    dropTotal: sumOf(port.drops),
    dropRate: per((p) => sumOf(p.drops)),
    dropRates: reasonRates(old, port, "drops", seconds),
    refusedRates: reasonRates(old, port, "refused", seconds),
    callRate: per((p) => p.calls),
    unaskedKicks: per((p) => p.kicks_polling),
  };
}

const times8 = (value) => (value === null ? null : 8 * value);

const share = (perSecond, seconds, cycles) => (perSecond === null ? null : (perSecond * seconds) / cycles);

/** A reason that is new begins at zero. */
function reasonRates(old, port, key, seconds) {
  const one = ([reason, now]) => [reason, old ? rate(old[key][reason] ?? 0, now, seconds) : null];
  return Object.fromEntries(Object.entries(port[key]).map(one));
}

function deriveCore(before, core, scheduler, ports, { seconds, cycles }) {
  const old = seconds > 0 ? before.cores.find((other) => other.core === core.core) : undefined;
  const busy = old ? core.busy_cycles - old.busy_cycles : 0;
  const all = old ? busy + core.idle_cycles - old.idle_cycles : 0;
  const here = ports.flatMap((port) =>
    port.queues.filter((queue) => queue.io_core === core.core).map((queue) => ({ port, queue, load: queue.load })));
  here.sort((a, b) => (b.load ?? 0) - (a.load ?? 0) || compareNames(a.port.name, b.port.name) || a.queue.index - b.queue.index);
  return {
    ...core,
    busy: all > 0 ? busy / all : null,
    asleep: all > 0 ? (core.slept_cycles - old.slept_cycles) / all : null,
    withoutCpu: share(rate(old?.cpu_wait_ns, core.cpu_wait_ns, seconds), seconds, 1e9 * seconds),
    here,
    fromOthers: share(rate(old?.received_cycles, core.received_cycles, seconds), seconds, cycles),
    handedOver: rate(old?.handed_over, core.handed_over, seconds),
    median: quantile(old?.latency, core.latency, 0.5),
    p99: quantile(old?.latency, core.latency, 0.99),
    receivedRate: rate(old?.received, core.received, seconds),
    isSaturated: scheduler.saturated.includes(core.core),
    isParked: scheduler.parked.includes(core.core),
  };
}

/** The bound below which this part of what was counted between two histograms is; null where nothing was, or it is above all bounds. */
function quantile(old, now, part) {
  const counted = old ? now.count - old.count : 0;
  const within = now.within_s.map(([bound, count], index) => [bound, count - (old?.within_s[index]?.[1] ?? 0)]);
  return counted > 0 ? (within.find(([, count]) => count >= part * counted)?.[0] ?? null) : null;
}

/** Names with numbers in them in the order of the numbers: vm9 before vm10. */
export const compareNames = new Intl.Collator("en", { numeric: true }).compare;

/** Reasons with their totals, rates and the ports whose packets they were; the most frequent now first. */
function dropsByReason(ports) {
  const reasons = new Map();
  for (const port of ports) {
    for (const [reason, total] of Object.entries(port.drops)) {
      const entry = reasons.get(reason) ?? { reason, total: 0, rate: null, ports: [] };
      const now = port.dropRates[reason];
      entry.total += total;
      entry.rate = now === null ? entry.rate : (entry.rate ?? 0) + now;
      entry.ports.push({ name: port.name, total, rate: now });
      reasons.set(reason, entry);
    }
  }
  const order = (a, b) => (b.rate ?? 0) - (a.rate ?? 0) || b.total - a.total;
  reasons.forEach((entry) => entry.ports.sort(order));
  return [...reasons.values()].sort((a, b) => order(a, b) || compareNames(a.reason, b.reason));
}

function totals(ports) {
  const add = (key) => {
    const values = ports.map((port) => port[key]).filter((value) => value !== null);
    return values.length > 0 ? sum(values) : null;
  };
  const bits = ports.map((port) => (port.kind === "guest" ? port.txBits : port.rxBits)).filter((value) => value !== null);
  return { pulled: add("pulled"), bits: bits.length > 0 ? sum(bits) : null, drops: add("dropRate") };
}

/** Queue pairs that were on another core before: moved there, or placed there when their guest connected anew. */
export function movesBetween(before, now) {
  const places = new Map();
  const each = (snapshot, use) => snapshot.ports.filter((port) => port.kind === "guest").forEach((port) =>
    port.queues.filter((queue) => queue.io_core !== null).forEach((queue) => use(`${port.name}\n${queue.index}`, port, queue)));
  each(before, (key, _, queue) => places.set(key, queue));
  const moves = [];
  each(now, (key, port, queue) => {
    const old = places.get(key);
    if (old && old.io_core !== queue.io_core) {
      const isMove = queue.moves > old.moves;
      moves.push({ guest: port.name, queue: queue.index, from: old.io_core, to: queue.io_core, isMove, time_ms: isMove ? queue.moved_ms : null });
    }
  });
  return moves;
}
