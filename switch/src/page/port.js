// All that is known of one guest or uplink.

import { entries, list } from "./decisions.js";
import { el } from "./dom.js";
import { bytes, count, duration, percent, short, withUnit } from "./format.js";
import { coresOf, facts, load, portLink, reasonTable, section, spark, state, table, wait } from "./parts.js";
import { FAULTS, REASONS } from "./reasons.js";

const DECISIONS = 20;

export function portView(now, ui, name) {
  const port = now.ports.find((candidate) => candidate.name === name);
  if (!port) {
    return [section("port", name, el("p", {}, "There is no port of this name, or none any more. ", el("a", { href: "#/" }, "All ports")))];
  }
  const isGuest = port.kind === "guest";
  return [
    el("div", { class: "identity", "data-key": "identity" }, section("port", `${isGuest ? "Guest" : "Uplink"} ${port.name}`,
      port.error ? el("p", { class: "fault" }, port.error) : null, about(port), lines(port, ui))),
    section("sums", "Totals since the switch started", totals(port, isGuest)),
    section("queues", isGuest ? "Queue pairs" : "Queues", queues(port, isGuest)),
    section("dropped", "What came from it and was dropped", reasonTable("port-drops", "Drops by reason", port.drops, port.dropRates, REASONS, "Nothing.")),
    isGuest ? section("refused", "What it could not take", reasonTable("port-refused", "Packets refused, by reason", port.refused, port.refusedRates, REASONS, "Nothing.")) : null,
    Object.keys(port.faults).length > 0 ? section("faults", "Rings stopped", reasonTable("port-faults", "Ring faults", port.faults, null, FAULTS)) : null,
    isGuest ? section("talks", "Talks with", talks(now.snapshot.talks, name)) : null,
    isGuest ? section("log", "Why did it move?", list(entries(now.snapshot, ui.seen).filter((entry) => entry.step?.guest === name), DECISIONS)) : null,
    isGuest ? null : section("device", "The device's own counters", deviceCounters(port)),
  ].filter(Boolean);
}

function about(port) {
  const { negotiated: agreed, uplink } = port;
  return facts(
    ["State", state(port)],
    [port.queues.length > 1 ? "I/O cores" : "I/O core", coresOf(port)],
    port.vm_name && ["Virtual machine", port.vm_name, port.vm_uuid],
    port.socket && ["Socket", el("code", {}, port.socket)],
    port.device && ["Device", el("code", {}, port.device)],
    port.driver && ["Driver", port.driver],
    port.mac && ["Address", el("code", {}, port.mac)],
    ["Mode", port.mode],
    port.mtu && ["MTU", count(port.mtu)],
    agreed && ["Rings", `${agreed.ring}, ${agreed.ring_size} entries`],
    agreed && ["Memory", bytes(agreed.memory_bytes)],
    uplink?.link_mbps && ["Link", withUnit(1e6 * uplink.link_mbps, "bit/s")],
    uplink && ["Free mbufs", `${count(uplink.mbufs_free)} of ${count(uplink.mbufs)}`],
    uplink && ["Lost by the device", count(Object.values(uplink.errors).reduce((all, one) => all + one, 0)), Object.entries(uplink.errors).map((one) => one.join(" ")).join(", ")],
    port.kind === "guest" && ["Connections", count(port.session.connections), "frontends that connected since the port was added"],
    agreed && ["Features", el("code", {}, agreed.feature_names.join(" ")), agreed.features],
  );
}

/** The last minutes of what goes on. */
function lines(port, ui) {
  const one = (key, name, now) => el("figure", { "data-key": key },
    el("figcaption", {}, name, " ", el("b", {}, now)),
    spark(ui.history.points(`port:${port.name}:${key}`), { span: ui.history.span, label: `${name} in the last ${duration(ui.history.span)}` }));
  const [sent, received] = port.kind === "guest" ? ["Sent", "Received"] : ["To wire", "From wire"];
  return el("div", { class: "sparks" },
    one("load", "Load", percent(port.load)),
    one("txPackets", sent, withUnit(port.txPackets, "pkt/s")),
    one("rxPackets", received, withUnit(port.rxPackets, "pkt/s")),
    one("dropRate", "Dropped", withUnit(port.dropRate, "/s")));
}

function totals(port, isGuest) {
  const { accounting: sums } = port;
  const fact = (id, name, value, title) => [name, el("span", { "data-total": id }, value), title];
  return [
    facts(
      fact("tx-packets", isGuest ? "Sent" : "To wire", count(port.tx.packets), "packets"),
      fact("tx-bytes", "bytes", count(port.tx.bytes)),
      fact("rx-packets", isGuest ? "Received" : "From wire", count(port.rx.packets), "packets"),
      fact("rx-bytes", "bytes", count(port.rx.bytes)),
      isGuest && fact("kicks", "Kicks", count(port.kicks), "notifications of the guest since it was told that none are needed"),
      isGuest && fact("calls", "Calls", count(port.calls), "interrupts sent"),
      isGuest && fact("calls-suppressed", "Calls suppressed", count(port.calls_suppressed), "publications for which the guest wanted no interrupt"),
    ),
    el("p", { class: "identity-of" },
      `${count(sums.pulled)} pulled = ${count(sums.forwarded)} forwarded + ${count(sums.dropped)} dropped + ${count(sums.in_flight)} in flight`,
      sums.copies > 0 ? `; ${count(sums.copies)} copies of floods = ${count(sums.delivered)} delivered + ${count(sums.copy_drops)} dropped` : null),
  ];
}

function queues(port, isGuest) {
  const sum = (counts) => Object.values(counts).reduce((all, one) => all + one, 0);
  const columns = [
    { id: "index", names: true, head: isGuest ? "Pair" : "Queue", cell: (queue) => count(queue.index) },
    { id: "core", names: true, head: "Core", cell: (queue) => (queue.io_core === null ? "–" : count(queue.io_core)) },
    { id: "load", head: "Load", cell: (queue) => load(queue.load) },
    { id: "tx-rate", head: isGuest ? "Sent" : "To wire", unit: "pkt/s", cell: (queue) => short(queue.txPackets) },
    { id: "rx-rate", head: isGuest ? "Received" : "From wire", unit: "pkt/s", cell: (queue) => short(queue.rxPackets) },
    { id: "tx", head: isGuest ? "Sent" : "To wire", cell: (queue) => count(queue.tx.packets) },
    { id: "rx", head: isGuest ? "Received" : "From wire", cell: (queue) => count(queue.rx.packets) },
    { id: "dropped", head: "Dropped", cell: (queue) => count(sum(queue.drops)) },
    isGuest && { id: "refused", head: "Refused", cell: (queue) => count(sum(queue.refused)) },
    isGuest && { id: "moves", head: "Moves", cell: (queue) => count(queue.moves) },
    isGuest && { id: "backlog", head: "Backlog", title: "ring slots with work that was left over when it was last looked", cell: (queue) => count(queue.backlog) },
    { id: "wait", head: "Oldest wait", cell: (queue) => wait(queue.oldest_wait_ns) },
    isGuest && { id: "kicks", head: "Kicks", cell: (queue) => count(queue.kicks) },
    isGuest && { id: "calls", head: "Calls", cell: (queue) => count(queue.calls) },
  ].filter(Boolean);
  return table({ id: "port-queues", caption: isGuest ? "Queue pairs" : "Queues", columns, rows: port.queues, keyOf: (queue) => queue.index });
}

function talks({ interval_ms: interval, talks: all }, name) {
  const partners = new Map();
  const partner = (other) => partners.get(other) ?? partners.set(other, { name: other, to: 0, from: 0 }).get(other);
  for (const talk of all) {
    if (talk.from === name) {
      partner(talk.to).to += talk.packets;
    }
    if (talk.to === name) {
      partner(talk.from).from += talk.packets;
    }
  }
  const rows = [...partners.values()].sort((a, b) => b.to + b.from - a.to - a.from);
  const rate = (packets) => short(interval > 0 ? (1000 * packets) / interval : null);
  const columns = [
    { id: "name", head: "Guest", text: true, cell: (row) => el("a", { href: portLink(row.name) }, row.name) },
    { id: "to", head: "To it", unit: "pkt/s", cell: (row) => rate(row.to) },
    { id: "from", head: "From it", unit: "pkt/s", cell: (row) => rate(row.from) },
  ];
  return table({ id: "port-talks", caption: "Guests it talks with, in the last interval of load accounting", columns, rows, keyOf: (row) => row.name, empty: "No guest at the moment." });
}

function deviceCounters(port) {
  const rows = Object.entries(port.xstats).map(([name, value]) => ({ name, value }));
  const columns = [
    { id: "stat", head: "Counter", text: true, cell: (row) => el("code", {}, row.name) },
    { id: "value", head: "Value", cell: (row) => count(row.value) },
  ];
  return table({ id: "port-xstats", caption: "Counters of the driver", columns, rows, keyOf: (row) => row.name, empty: "The driver has none." });
}
