// What the views are made of.

import { el } from "./dom.js";
import { compareNames } from "./rates.js";
import { count, nanoseconds, percent } from "./format.js";

export const portLink = (name) => `#/port/${encodeURIComponent(name)}`;

export const section = (name, title, ...content) =>
  el("section", { class: name, "aria-labelledby": `${name}-title`, "data-key": name }, el("h2", { id: `${name}-title` }, title), ...content);

/**
 * A table that can be sorted by its heads. A column has an `id`, a `head`, `cell(row)`, and `value(row)` to sort by; `text` ones are set
 * to the left, and sorted upwards first. The zeros of others are faint, unless they are `names`.
 */
export function table({ id, caption, columns, rows, keyOf, sort, empty }) {
  const by = sort && columns.find((column) => column.id === sort.column);
  const sorted = by ? [...rows].sort((a, b) => (sort.descending ? -1 : 1) * compare(by.value(a), by.value(b))) : rows;
  const head = (column) => {
    const isSorted = column === by;
    const direction = isSorted ? (sort.descending ? "descending" : "ascending") : null;
    const label = el("span", {}, column.head, column.unit ? el("small", {}, ` ${column.unit}`) : null);
    return el("th", { scope: "col", class: column.text ? "text" : "number", "aria-sort": direction, title: column.title },
      column.value ? el("button", { type: "button", "data-sort": `${id}:${column.id}` }, label) : label);
  };
  const row = (item) => el("tr", { "data-key": `row:${keyOf(item)}` }, columns.map((column, index) => {
    const content = column.cell(item);
    const isZero = !column.text && !column.names && typeof content === "string" && /^[0.]+\s*(%|[kMGTµmn]?s?)?$/.test(content);
    const attributes = { class: [column.text ? "text" : "number", isZero && "zero", column.mark?.(item)].filter(Boolean).join(" "), "data-field": column.id };
    return index === 0 ? el("th", { ...attributes, scope: "row" }, content) : el("td", attributes, content);
  }));
  const body = sorted.length > 0 ? sorted.map(row) : el("tr", {}, el("td", { class: "text empty", colspan: columns.length }, empty));
  return el("div", { class: "scroll", role: "region", tabindex: 0, "aria-label": caption },
    el("table", { id, class: "data" }, el("caption", { class: "unseen" }, caption), el("thead", {}, el("tr", {}, columns.map(head))), el("tbody", {}, body)));
}

/** What is not known comes last when sorted downwards. */
function compare(a, b) {
  if (typeof a === "string" || typeof b === "string") {
    return compareNames(a ?? "", b ?? "");
  }
  return (a ?? -1) - (b ?? -1);
}

/** Facts as a list of names and values. */
export function facts(...pairs) {
  return el("dl", { class: "facts" }, pairs.filter(Boolean).map(([name, value, title]) =>
    el("div", { title }, el("dt", {}, name), el("dd", {}, value))));
}

/** Counts by reason, the greatest first, each with what it means. */
export function reasonTable(id, caption, counts, rates, meanings, empty) {
  const rows = Object.entries(counts).map(([reason, total]) => ({ reason, total, rate: rates?.[reason] ?? null }));
  rows.sort((a, b) => b.total - a.total);
  return table({
    id, caption, rows, empty, keyOf: (row) => row.reason,
    columns: [
      { id: "reason", head: "Reason", text: true, cell: (row) => el("code", {}, row.reason) },
      rates && { id: "rate", head: "Now", unit: "/s", cell: (row) => (row.rate === null ? "–" : count(row.rate)) },
      { id: "total", head: "Total", cell: (row) => count(row.total) },
      { id: "meaning", head: "Meaning", text: true, cell: (row) => meanings[row.reason] ?? "" },
    ].filter(Boolean),
  });
}

/** The last minutes of a value as a line. `points` are [milliseconds ago, value]. */
export function spark(points, { span, max, label }) {
  const [width, height] = [120, 24];
  const top = max ?? Math.max(1, ...points.map(([, value]) => value));
  const x = (ago) => (width * (1 - ago / span)).toFixed(1);
  const y = (value) => (height - 1 - (height - 2) * Math.min(1, value / top)).toFixed(1);
  const line = points.map(([ago, value], index) => `${index === 0 ? "M" : "L"}${x(ago)} ${y(value)}`).join("");
  return el("svg", { class: "spark", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": label },
    el("path", { d: line || "M0 0" }));
}

/** A core's time as a bar of what it was spent on. Parts are {share, label, kind}. */
export function bar(parts) {
  let left = 0;
  const pieces = [];
  for (const { share, label, kind } of parts) {
    const width = Math.max(0, Math.min(share, 1 - left));
    // Names stand where they have room; the list below has all of them.
    if (width >= 0.002) {
      const text = width > 0.012 * (label.length + 1) ? el("text", { x: 5, y: "50%", "dominant-baseline": "central" }, label) : null;
      pieces.push(el("svg", { x: percentOf(left), width: percentOf(width), height: "100%" },
        el("rect", { class: kind, width: "100%", height: "100%" }), text));
    }
    left += width;
  }
  return el("svg", { class: "bar", width: "100%", height: 22, "aria-hidden": "true" }, pieces);
}

const percentOf = (share) => `${(100 * share).toFixed(2)}%`;

export const wait = (ns) => (ns === null ? "–" : nanoseconds(ns));

export const load = (value) => percent(value);

export const coresOf = (port) => (port.ioCores.length > 0 ? port.ioCores.join(", ") : "–");

/** A state in words; colour only repeats what it says. */
export function state(port) {
  const kind = { running: "good", up: "good", stopped: "fault", down: "fault" }[port.state] ?? "idle";
  return el("span", { class: `state ${kind}` }, port.state);
}
