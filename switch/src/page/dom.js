// Elements, and bringing a page up to date without losing the reader's place in it.
//
// Text is always text: nothing is ever parsed as HTML, so a name can hold anything.

const SVG = "http://www.w3.org/2000/svg";
const SVG_TAGS = new Set(["svg", "rect", "line", "path", "text", "title"]);

/** Makes an element. Attributes that are null or false are left out; so are children that are. */
export function el(tag, attributes = {}, ...children) {
  const node = SVG_TAGS.has(tag) ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) {
      node.setAttribute(name, value === true ? "" : String(value));
    }
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** Makes `live` show what `wanted` does. Elements that stay keep their focus and selection; `data-key` tells rows apart. */
export function show(live, ...wanted) {
  const focus = document.activeElement;
  const list = document.createElement("div");
  list.append(...wanted);
  updateChildren(live, list);
  // An element that changes its place loses the focus.
  if (focus && focus !== document.activeElement && live.contains(focus)) {
    focus.focus({ preventScroll: true });
  }
}

const keyOf = (node) => node?.dataset?.key;

const isAlike = (a, b) => a.nodeName === b.nodeName && keyOf(a) === keyOf(b);

function updateChildren(live, wanted) {
  const keyed = new Map();
  for (const child of live.children) {
    if (keyOf(child) !== undefined) {
      keyed.set(keyOf(child), child);
    }
  }
  let place = live.firstChild;
  for (const want of [...wanted.childNodes]) {
    const candidate = keyOf(want) === undefined ? place : keyed.get(keyOf(want));
    if (!candidate || !isAlike(candidate, want)) {
      live.insertBefore(want, place);
      continue;
    }
    if (candidate === place) {
      place = place.nextSibling;
    } else {
      live.insertBefore(candidate, place);
    }
    update(candidate, want);
  }
  while (place) {
    const next = place.nextSibling;
    place.remove();
    place = next;
  }
}

function update(live, wanted) {
  if (live.nodeType !== Node.ELEMENT_NODE) {
    if (live.data !== wanted.data) {
      live.data = wanted.data;
    }
    return;
  }
  for (const { name } of [...live.attributes]) {
    if (!wanted.hasAttribute(name)) {
      live.removeAttribute(name);
    }
  }
  for (const { name, value } of wanted.attributes) {
    if (live.getAttribute(name) !== value) {
      live.setAttribute(name, value);
    }
  }
  updateChildren(live, wanted);
}
