// What somebody should look at, the worst first.

import { withUnit } from "./format.js";
import { portLink } from "./parts.js";

/** Reasons of drops that are listed, and ports that are named with each. */
const MOST = 6;
const NAMED = 3;

/** A list of {grade: "fault" | "warn" | "note", text, href?}. */
export function problems({ snapshot, ports, cores, drops }, health) {
  const { scheduler } = snapshot;
  const found = [];
  const add = (grade, text, href) => found.push({ grade, text, href });
  if (health) {
    add("fault", health);
  }
  if (scheduler.cannot_fix) {
    add("fault", `Saturated, and no move helps: ${scheduler.cannot_fix}`, "#/decisions");
  }
  for (const port of ports) {
    const href = portLink(port.name);
    if (port.state === "stopped" || port.state === "down" || port.error) {
      const isFault = port.state === "stopped" || port.state === "down";
      add(isFault ? "fault" : "warn", `${port.kind} ${port.name} is ${port.state}${port.error ? `: ${port.error}` : ""}`, href);
    }
  }
  cores.filter((core) => core.isSaturated).forEach((core) => add("warn", `I/O core ${core.core} is saturated`));
  ports.filter((port) => port.unaskedKicks > 0).forEach((port) =>
    add("warn", `guest ${port.name} kicks though its core polls: ${withUnit(port.unaskedKicks, "")} kicks/s`, portLink(port.name)));
  // Every flood has copies for guests that are off: nothing to worry about.
  const falling = drops.filter(({ reason, rate }) => rate > 0 && reason !== "receiver_not_ready");
  for (const { reason, rate, ports: sources } of falling.slice(0, MOST)) {
    const takers = ports.filter((port) => port.refusedRates[reason] > 0);
    takers.sort((a, b) => b.refusedRates[reason] - a.refusedRates[reason]);
    const from = sources.filter((source) => source.rate > 0);
    const refusing = takers.length > 0 ? `; ${names(takers)} could not take them` : "";
    add("warn", `${withUnit(rate, "")} packets/s are dropped, ${reason}: from ${names(from)}${refusing}`, portLink((takers[0] ?? from[0]).name));
  }
  if (scheduler.paused) {
    add("note", "The scheduler is paused: nothing moves by itself", "#/decisions");
  }
  return found;
}

const names = (ports) =>
  ports.slice(0, NAMED).map(({ name }) => name).join(", ") + (ports.length > NAMED ? ` and ${ports.length - NAMED} more` : "");
