// Asks the switch, and shows what it says: the page's only state is in here.

import { decisionsView } from "./decisions.js";
import { show } from "./dom.js";
import { clock, duration } from "./format.js";
import { History } from "./history.js";
import { overview } from "./overview.js";
import { portView } from "./port.js";
import { problems } from "./problems.js";
import { derive, isRestart, movesBetween } from "./rates.js";

/** How long an answer is waited for. */
const PATIENCE_MS = 10_000;
/** The first rates come sooner than the interval says. */
const FIRST_MS = 300;
/** How long a queue pair is marked as just arrived, and a note stays. */
const ARRIVAL_MS = 10_000;
const NOTE_MS = 300_000;
/** Every so many answers, whether all cores poll. */
const HEALTH_EVERY = 5;
/** Moves seen that are remembered. */
const SEEN = 200;

const place = Object.fromEntries(["about", "link", "interval", "trouble", "news", "main"].map((id) => [id, document.getElementById(id)]));

const ui = {
  sort: { guests: { column: "name", descending: false }, uplinks: { column: "name", descending: false } },
  filter: "",
  history: new History(),
  /** Moves that were seen from one snapshot to the next. */
  seen: [],
  /** Queue pairs that have just come to another core, until when. */
  arrivals: new Map(),
  /** What /healthz complains about. */
  health: null,
  notes: [],
};

let before = null;
/** The last decision that was known before `before`: a decision is there sooner than its move. */
let decided = -1;
let current = null;
let answers = 0;
/** When answers ceased to come. */
let lostSince = null;
let timer = null;
/** One question at a time: an answer that was overtaken would be taken for a switch that started again. */
let isAsking = false;

async function ask(path) {
  const response = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) }).catch((error) => {
    throw new Error(error.name === "TimeoutError" ? `no answer within ${PATIENCE_MS / 1000} s` : "it cannot be reached");
  });
  if (!response.ok) {
    throw new Error((await response.text()).trim() || `HTTP ${response.status}`);
  }
  return response;
}

async function poll() {
  if (isAsking) {
    // Whoever is asking will schedule the next time.
    return;
  }
  isAsking = true;
  const isFirst = current === null;
  try {
    const snapshot = await hear();
    if (snapshot) {
      take(snapshot);
      place.trouble.hidden = true;
    }
    render();
  } catch (error) {
    stumble(error);
  } finally {
    isAsking = false;
    schedule(isFirst && current ? FIRST_MS : Number(place.interval.value));
  }
}

/** What the switch says; null where it does not answer. */
async function hear() {
  try {
    const snapshot = await (await ask("/status")).json();
    if (answers++ % HEALTH_EVERY === 0) {
      // The answer takes up to a second.
      ask("/healthz").then(() => null, (error) => error.message).then((complaint) => { ui.health = complaint; });
    }
    lostSince = null;
    return snapshot;
  } catch (error) {
    lose(error.message);
    return null;
  }
}

function schedule(delay) {
  clearTimeout(timer);
  timer = delay > 0 && !document.hidden ? setTimeout(poll, delay) : null;
}

/** Takes in a new snapshot. */
function take(snapshot) {
  const time = Date.now();
  if (before && before.version !== snapshot.version) {
    // This page is the other version's.
    location.reload();
  }
  if (before && isRestart(before, snapshot)) {
    ui.notes = [{ grade: "note", until: time + NOTE_MS, text: `The switch was started again at ${clock(time - snapshot.uptime_ms)}: counters begin at 0` }];
    ui.history.clear();
    ui.seen = [];
    ui.arrivals.clear();
    ui.health = null;
    before = null;
    decided = -1;
    say("The switch was started again.");
  }
  if (before) {
    movesBetween(before, snapshot).forEach((move) => note(move, time));
  }
  current = derive(before, snapshot);
  if (before) {
    ui.history.add(time, current);
  }
  decided = (before ?? snapshot).scheduler.decisions.at(-1)?.number ?? -1;
  before = snapshot;
  ui.notes = ui.notes.filter(({ until }) => until > time);
  ui.arrivals.forEach(({ until }, key) => until < time && ui.arrivals.delete(key));
}

function note(move, time) {
  ui.seen.push({ ...move, time_ms: move.time_ms ?? time, after: decided });
  ui.seen.splice(0, ui.seen.length - SEEN);
  ui.arrivals.set(`${move.guest}\n${move.queue}`, { from: move.from, until: time + ARRIVAL_MS });
  say(`Queue pair ${move.queue} of ${move.guest} moved from I/O core ${move.from} to I/O core ${move.to}.`);
}

/** The text stays the same while nothing comes, so that it is read out once. */
function lose(why) {
  lostSince ??= Date.now();
  const shown = current ? " What is below is from then." : "";
  place.trouble.textContent = `No answer from the switch since ${clock(lostSince)}: ${why}.${shown} This page tries again.`;
  place.trouble.hidden = false;
}

/** The page is at fault: it must not say that what it shows is live. */
function stumble(error) {
  console.error(error);
  place.link.dataset.state = "lost";
  place.link.textContent = "out of date";
  place.main.classList.add("stale");
  place.trouble.textContent = `This page cannot show what the switch says: ${error.message}. What is below is from before; reload the page.`;
  place.trouble.hidden = false;
}

/** For those who do not see it. */
function say(text) {
  place.news.textContent = text;
}

function render() {
  const isPaused = place.interval.value === "0";
  place.link.dataset.state = lostSince ? "lost" : isPaused ? "paused" : "live";
  place.link.textContent = lostSince ? "no answer" : isPaused ? "paused" : "live";
  place.main.classList.toggle("stale", lostSince !== null);
  if (!current) {
    return;
  }
  const { snapshot } = current;
  place.about.textContent = `${snapshot.version} · process ${snapshot.pid} · up ${duration(snapshot.uptime_ms)} · ${location.host}`;
  const route = location.hash.replace(/^#\/?/, "").split("/");
  const view = route[0] === "port" ? portView(current, ui, decode(route[1] ?? ""))
    : route[0] === "decisions" ? decisionsView(current, ui) : overview(current, ui);
  place.main.dataset.view = route[0] || "overview";
  place.main.dataset.uptime = snapshot.uptime_ms;
  show(place.main, ...view);
  const worst = problems(current, ui.health).filter(({ grade }) => grade !== "note").length;
  document.title = lostSince ? "no answer – sidecore" : worst > 0 ? `${worst} to look at – sidecore` : "sidecore";
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === (location.hash || "#/")) {
      link.setAttribute("aria-current", "page");
    } else {
      link.removeAttribute("aria-current");
    }
  }
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

document.querySelector(".skip").addEventListener("click", (event) => {
  // Where views are named behind the #, this one is no place to go to.
  event.preventDefault();
  place.main.focus();
});

document.addEventListener("click", ({ target }) => {
  const sort = target.closest("[data-sort]")?.dataset.sort;
  const filter = target.closest("[data-filter]")?.dataset.filter;
  if (sort) {
    const [id, column] = sort.split(":");
    const { column: last, descending } = ui.sort[id];
    // Texts from A on, numbers from the greatest down.
    const isText = target.closest("th").classList.contains("text");
    ui.sort[id] = { column, descending: column === last ? !descending : !isText };
    render();
  } else if (filter) {
    ui.filter = filter;
    const input = document.getElementById("filter");
    input.value = filter;
    input.focus();
    render();
  }
});

document.addEventListener("input", ({ target }) => {
  if (target.id === "filter") {
    ui.filter = target.value;
    render();
  }
});

place.interval.addEventListener("change", () => {
  render();
  schedule(Number(place.interval.value) > 0 ? 1 : 0);
});
document.addEventListener("visibilitychange", () => schedule(document.hidden || place.interval.value === "0" ? 0 : 1));
addEventListener("hashchange", () => {
  render();
  const input = document.getElementById("filter");
  if (input) {
    input.value = ui.filter;
  }
  place.main.focus({ preventScroll: true });
  scrollTo(0, 0);
});

poll();
