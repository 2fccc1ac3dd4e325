// Why did it move? What the scheduler decided, and moves that it did not decide.

import { el } from "./dom.js";
import { clock, count, nanoseconds, percent } from "./format.js";
import { portLink, section, table } from "./parts.js";

const KINDS = {
  move: "Moved",
  roll_back: "Moved back",
  park: "Parked",
  wake: "Woken",
  cannot_fix: "Cannot be fixed",
  pause: "Paused",
  resume: "Resumed",
  seen: "Moved",
};

/** Those of which the words say more. */
const OWN_WORDS = new Set(["park", "wake", "cannot_fix"]);

/** Decisions and moves seen, the newest first. */
export function entries(snapshot, seen) {
  const { decisions } = snapshot.scheduler;
  const isDecided = (move) => decisions.some(({ number, step }) =>
    step && number > move.after && step.guest === move.guest && step.queue === move.queue && step.to === move.to);
  const byHand = seen.filter((move) => !isDecided(move)).map((move) => ({
    number: null,
    key: `seen:${move.time_ms}:${move.guest}:${move.queue}`,
    time_ms: move.time_ms,
    kind: "seen",
    what: `queue pair ${move.queue} of guest ${move.guest} from I/O core ${move.from} to I/O core ${move.to}`,
    why: move.isMove ? "an operator moved it" : "its guest connected anew, and it was placed there",
    step: move,
  }));
  const decided = decisions.map((decision) => ({ ...decision, key: `decision:${decision.number}` }));
  return [...decided, ...byHand].sort((a, b) => b.time_ms - a.time_ms || (b.number ?? 0) - (a.number ?? 0));
}

const gain = (value) => (value === null || value === undefined ? "–" : percent(value));
const pause = (entry) => (entry.pause_us === null || entry.pause_us === undefined ? "–" : nanoseconds(entry.pause_us * 1000));

function what({ kind, step, what: words }) {
  if (!step) {
    return [el("b", {}, KINDS[kind] ?? kind), OWN_WORDS.has(kind) ? ` ${words.replace(/^nothing: |^park |^wake /, "")}` : null];
  }
  const { guest, queue, from, to } = step;
  return [el("b", {}, KINDS[kind] ?? kind), " ", el("a", { href: portLink(guest) }, guest), ` queue pair ${queue}: I/O core ${from} → ${to}`];
}

/** The last entries, for the side of a view. */
export function list(all, most) {
  if (all.length === 0) {
    return el("p", { class: "empty" }, "Nothing was decided yet, and nothing moved.");
  }
  const item = (entry) => {
    const figures = [
      entry.expected_gain != null && `expected gain ${gain(entry.expected_gain)}`,
      entry.measured_gain != null && `measured ${gain(entry.measured_gain)}`,
      entry.pause_us != null && `pause ${pause(entry)}`,
    ].filter(Boolean).join(", ");
    return el("li", { "data-key": entry.key, class: entry.kind },
      el("time", {}, clock(entry.time_ms)), el("span", {}, what(entry)),
      el("p", {}, entry.why, figures ? `; ${figures}` : null),
      entry.failed ? el("p", { class: "fault" }, `failed: ${entry.failed}`) : null);
  };
  return el("ol", { class: "log" }, all.slice(0, most).map(item));
}

/** All that is remembered, in a view of its own. */
export function decisionsView({ snapshot }, ui) {
  const { scheduler } = snapshot;
  const rows = entries(snapshot, ui.seen);
  const columns = [
    { id: "number", names: true, head: "No", cell: (row) => (row.number === null ? "–" : count(row.number)) },
    { id: "time", head: "Time", text: true, cell: (row) => clock(row.time_ms) },
    { id: "what", head: "What", text: true, cell: (row) => el("span", {}, what(row)) },
    { id: "why", head: "Why", text: true, cell: (row) => (row.failed ? `${row.why} (failed: ${row.failed})` : row.why) },
    { id: "expected", head: "Expected gain", title: "by how much the fullest I/O core concerned should be less full", cell: (row) => gain(row.expected_gain) },
    { id: "measured", head: "Measured gain", title: "by how much it was, once that had settled", cell: (row) => gain(row.measured_gain) },
    { id: "pause", head: "Pause", title: "time in which no core served the queue pair", cell: pause },
  ];
  return [section("decisions", "Why did it move?",
    el("p", {}, `Policy ${scheduler.policy}${scheduler.paused ? ", paused" : ""}: ${count(scheduler.moves)} queue pairs moved, ${count(scheduler.rolled_back)} of them back, ${count(scheduler.failed)} orders failed. Moves by hand are known from when this page was opened.`),
    scheduler.cannot_fix ? el("p", { class: "fault" }, `Cannot be fixed: ${scheduler.cannot_fix}`) : null,
    table({ id: "decisions", caption: "Decisions and moves, the newest first", columns, rows, keyOf: (row) => row.key, empty: "Nothing was decided yet, and nothing moved." }))];
}
