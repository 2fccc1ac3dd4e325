// Everything at a glance: what is wrong, the cores and who sits on them, drops, decisions, uplinks, guests.

import { el } from "./dom.js";
import { entries, list } from "./decisions.js";
import { count, duration, nanoseconds, percent, short, withUnit } from "./format.js";
import { bar, coresOf, facts, load, portLink, section, spark, state, table, wait } from "./parts.js";
import { problems } from "./problems.js";
import { REASONS } from "./reasons.js";

/** Queue pairs listed, at all cores together, and at one of few or many. A button leads to the others. */
const SEATS = 64;
const MOST_AT_CORE = 16;
const FEWEST_AT_CORE = 4;
const DECISIONS = 8;
/** From this part of the time on it is said that a core does not get its CPU. */
const MUCH_WITHOUT_CPU = 0.01;

export function overview(now, ui) {
  return [
    attention(problems(now, ui.health).concat(ui.notes)),
    summary(now),
    section("cores", "I/O cores", el("div", { class: "lanes" }, now.cores.map((core) => lane(core, now.cores.length, ui)))),
    el("div", { class: "side", "data-key": "side" }, drops(now), section("log", "Why did it move?",
      list(entries(now.snapshot, ui.seen), DECISIONS), el("p", {}, el("a", { href: "#/decisions" }, "All decisions")))),
    now.uplinks.length > 0 ? section("uplinks", "Uplinks", uplinks(now.uplinks, ui)) : null,
    guests(now.guests, ui),
  ].filter(Boolean);
}

function attention(found) {
  const item = ({ grade, text, href }) => el("li", { class: grade },
    el("b", {}, { fault: "Fault", warn: "Warning", note: "Note" }[grade]), " ", href ? el("a", { href }, text) : text);
  return el("section", { class: "attention", "aria-label": "Needs attention", "data-key": "attention" },
    found.length > 0 ? el("ul", {}, found.map(item)) : el("p", { class: "good" }, "Nothing needs attention."));
}

function summary({ snapshot, totals, cores }) {
  const busy = cores.filter((core) => core.busy !== null).map((core) => core.busy);
  const { scheduler, pauses, accounting } = snapshot;
  return el("section", { class: "summary", "aria-label": "Sums", "data-key": "summary" }, facts(
    ["Switched", withUnit(totals.pulled, "pkt/s"), "packets taken from guests and uplinks"],
    ["", withUnit(totals.bits, "bit/s"), "the bits of those packets"],
    ["Fullest core", busy.length > 0 ? percent(Math.max(...busy)) : "–"],
    ["Dropped", withUnit(totals.drops, "pkt/s")],
    ["In flight", count(accounting.in_flight), "packets under way between two I/O cores"],
    ["Stations", `${count(snapshot.fdb_entries)} of ${count(snapshot.fdb_capacity)}`, "addresses known, and room for them"],
    ["Moves", count(pauses.count), "queue pairs moved between I/O cores, by hand or by the scheduler"],
    ["Scheduler", `${scheduler.policy}${scheduler.paused ? ", paused" : ""}`],
  ));
}

function lane(core, cores, ui) {
  const points = ui.history.points(`core:${core.core}`);
  const parts = core.here.filter(({ load: share }) => share > 0).map(({ port, queue, load: share }, index) =>
    ({ share, label: nameOf(port, queue), kind: port.kind === "uplink" ? "uplink" : index % 2 === 0 ? "one" : "other" }));
  parts.push({ share: core.fromOthers ?? 0, label: "from other cores", kind: "received" });
  const grade = core.isSaturated ? "saturated" : core.isParked ? "parked" : null;
  const most = Math.min(MOST_AT_CORE, Math.max(FEWEST_AT_CORE, Math.floor(SEATS / cores)));
  // Whoever has just come is to be seen.
  const shown = core.here.filter(({ port, queue }, index) => index < most || ui.arrivals.has(`${port.name}\n${queue.index}`));
  const rest = core.here.length - shown.length;
  return el("article", { class: `lane ${grade ?? ""}`, "data-key": `core:${core.core}`, "data-core": core.core },
    el("header", {},
      el("h3", {}, `Core ${core.core}`), el("span", { class: "faint" }, core.cpu === null ? "" : `CPU ${core.cpu}`),
      grade ? el("b", { class: grade }, grade) : null,
      el("span", { class: "wide" }),
      spark(points, { span: ui.history.span, max: 1, label: `busy in the last ${duration(ui.history.span)}` }),
      el("span", { class: "busy" }, core.busy === null ? "–" : percent(core.busy), el("small", {}, " busy"))),
    bar(parts),
    el("ul", { class: "seats", "aria-label": `On core ${core.core}` },
      shown.map(({ port, queue, load: share }) => seat(port, queue, share, ui)),
      rest > 0 ? el("li", { class: "more" }, el("button", { type: "button", "data-filter": `core:${core.core}` }, `+ ${rest} more`)) : null,
      core.here.length === 0 ? el("li", { class: "empty" }, "no queue") : null),
    el("p", { class: "faint" }, core.mode === "poll" ? null : `${core.mode}, asleep ${percent(core.asleep)} · `, core.withoutCpu >= MUCH_WITHOUT_CPU ? `without its CPU ${percent(core.withoutCpu)} of the time · ` : null, `oldest wait ${wait(core.oldest_wait_ns)} · in the switch ${atMost(core.median)}, p99 ${atMost(core.p99)} · from other cores ${withUnit(core.receivedRate, "pkt/s")} · to other cores ${withUnit(core.handedOver, "pkt/s")}`));
}

const atMost = (seconds) => (seconds === null ? "–" : `≤ ${nanoseconds(1e9 * seconds)}`);

const nameOf = (port, queue) => (port.queues.length > 1 ? `${port.name}/${queue.index}` : port.name);

function seat(port, queue, share, ui) {
  const moved = port.kind === "guest" ? ui.arrivals.get(`${port.name}\n${queue.index}`) : undefined;
  return el("li", { "data-key": `seat:${port.name}/${queue.index}`, class: [port.kind, moved && "arrived"].filter(Boolean).join(" ") },
    el("a", { href: portLink(port.name), title: `${port.kind} ${port.name}, queue ${port.kind === "guest" ? "pair " : ""}${queue.index}` }, nameOf(port, queue)),
    " ", el("span", { class: "number" }, load(share)),
    moved ? el("span", { class: "from" }, ` ← core ${moved.from}`) : null);
}

function drops({ drops: reasons }) {
  const columns = [
    { id: "reason", head: "Reason", text: true, cell: ({ reason }) => el("code", { title: REASONS[reason] }, reason) },
    { id: "rate", head: "Now", unit: "/s", cell: ({ rate }) => short(rate), mark: ({ rate }) => rate > 0 && "warn" },
    { id: "total", head: "Total", cell: ({ total }) => count(total) },
    { id: "ports", head: "From", text: true, cell: ({ ports }) => el("span", {}, mostly(ports)) },
  ];
  return section("drops", "Drops by reason",
    table({ id: "drops", caption: "Drops by reason", columns, rows: reasons, keyOf: ({ reason }) => reason, empty: "Nothing was dropped." }),
    reasons.length > 0 ? el("p", { class: "faint" }, reasons[0].reason, ": ", REASONS[reasons[0].reason] ?? "") : null);
}

function mostly(ports) {
  const names = ports.slice(0, 2).flatMap(({ name }, index) => [index > 0 ? ", " : null, el("a", { href: portLink(name) }, name)]);
  return ports.length > 2 ? [...names, ` + ${ports.length - 2}`] : names;
}

/** The names that RX and TX have, from where the port's owner stands. */
const TRAFFIC = {
  guest: [["tx", "Sent", "packets taken from the guest (TX)"], ["rx", "Received", "packets delivered to the guest (RX)"]],
  uplink: [["rx", "From wire", "packets received from the wire (RX)"], ["tx", "To wire", "packets sent to the wire (TX)"]],
};

function trafficColumns(kind) {
  return TRAFFIC[kind].flatMap(([way, head, title]) => [
    { id: `${way}-packets`, head, unit: "pkt/s", title, cell: (port) => short(port[`${way}Packets`]), value: (port) => port[`${way}Packets`] },
    { id: `${way}-bits`, head, unit: "bit/s", title, cell: (port) => short(port[`${way}Bits`]), value: (port) => port[`${way}Bits`] },
  ]);
}

const NAME = { id: "name", head: "Name", text: true, value: (port) => port.name, cell: (port) => el("a", { href: portLink(port.name) }, port.name) };
const STATE = { id: "state", head: "State", text: true, value: (port) => port.state, cell: state };
const CORE = { id: "core", head: "Core", text: true, title: "the I/O cores that serve it", value: coresOf, cell: coresOf };
const LOAD = { id: "load", head: "Load", title: "time that cores spent on what it sent, in parts of a core", value: (port) => port.load, cell: (port) => load(port.load) };
const DROPS = [
  { id: "drop-rate", head: "Drops", unit: "/s", title: "packets that came from it and were dropped", value: (port) => port.dropRate, cell: (port) => short(port.dropRate), mark: (port) => port.dropRate > 0 && "warn" },
  { id: "dropped", head: "Dropped", value: (port) => port.dropTotal, cell: (port) => count(port.dropTotal) },
];

function uplinks(rows, ui) {
  const columns = [NAME, STATE, CORE, LOAD, ...trafficColumns("uplink"), ...DROPS,
    { id: "driver", head: "Driver", text: true, value: (port) => port.driver, cell: (port) => port.driver ?? "–" }];
  return table({ id: "uplinks", caption: "Uplinks", columns, rows, keyOf: (port) => port.name, sort: ui.sort.uplinks });
}

function guests(all, ui) {
  const words = ui.filter.toLowerCase().split(/\s+/).filter(Boolean);
  const isShown = (port) => {
    const text = [port.name.toLowerCase(), port.state, ...port.ioCores.map((core) => `core:${core}`)];
    return words.every((word) => text.some((part) => (word.startsWith("core:") ? part === word : part.includes(word))));
  };
  const rows = all.filter(isShown);
  const columns = [NAME, STATE, CORE, LOAD, ...trafficColumns("guest"),
    { id: "wait", head: "Oldest wait", title: "how long the oldest work in its rings waited, in the last tick", value: (port) => port.wait, cell: (port) => wait(port.wait) },
    ...DROPS,
    { id: "kicks", head: "Kicks", value: (port) => port.kicks, cell: (port) => count(port.kicks) },
    { id: "calls", head: "Calls", unit: "/s", title: "interrupts sent to the guest", value: (port) => port.callRate, cell: (port) => short(port.callRate) }];
  const counted = rows.length === all.length ? `${all.length}` : `${rows.length} of ${all.length}`;
  return section("guests", `Guests (${counted})`,
    el("p", { class: "filter", role: "search" }, el("label", { for: "filter" }, "Filter"),
      el("input", { id: "filter", type: "search", autocomplete: "off", spellcheck: "false", placeholder: "name, state or core:0" })),
    table({ id: "guests", caption: "Guests", columns, rows, keyOf: (port) => port.name, sort: ui.sort.guests,
      empty: all.length > 0 ? "No guest is like that." : "There is no guest yet: sidecore guest add NAME --socket PATH" }));
}
