// Numbers, as people read them. What is not known is a dash.

const NOTHING = "–";
const THIN = "\u202f";
/** As wide as a digit: stands where other numbers of a column have a prefix. */
const BLANK = "\u2007";

const known = (value) => value !== null && value !== undefined && Number.isFinite(value);

/** All digits, in groups of three. */
export function count(value) {
  return known(value) ? String(Math.round(value)).replace(/\B(?=(\d{3})+$)/g, THIN) : NOTHING;
}

/** Three digits and a prefix: 1.23 M. Columns of it line up. */
export function short(value) {
  if (!known(value)) {
    return NOTHING + THIN + BLANK;
  }
  let rest = value;
  for (const prefix of [BLANK, "k", "M", "G", "T"]) {
    if (rest < 999.5 || prefix === "T") {
      const digits = prefix === BLANK && (rest >= 10 || Number.isInteger(rest)) ? 0 : rest < 9.995 ? 2 : rest < 99.95 ? 1 : 0;
      return rest.toFixed(digits) + THIN + prefix;
    }
    rest /= 1000;
  }
  return NOTHING;
}

/** The same with a unit behind it: "1.23 Mbit/s". */
export function withUnit(value, unit) {
  return known(value) ? short(value).replace(BLANK, "") + unit : NOTHING;
}

export function percent(share) {
  return known(share) ? `${(100 * share).toFixed(1)}${THIN}%` : NOTHING;
}

/** A time in nanoseconds. */
export function nanoseconds(ns) {
  if (!known(ns)) {
    return NOTHING;
  }
  const [value, unit] = ns < 1e6 ? [ns / 1e3, "µs"] : ns < 1e9 ? [ns / 1e6, "ms"] : [ns / 1e9, "s"];
  return value.toFixed(value < 99.95 ? 1 : 0) + THIN + unit;
}

/** A time in milliseconds, in its two largest units. */
export function duration(ms) {
  const seconds = Math.floor(ms / 1000);
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const first = units.findIndex(([, length]) => seconds >= length);
  if (first < 0) {
    return `0${THIN}s`;
  }
  let rest = seconds;
  return units.slice(first, first + 2).map(([unit, length]) => {
    const whole = Math.floor(rest / length);
    rest -= whole * length;
    return whole + THIN + unit;
  }).join(" ");
}

export function bytes(value) {
  for (const [unit, size] of [["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10]]) {
    if (value >= size) {
      return `${+(value / size).toFixed(1)}${THIN}${unit}`;
    }
  }
  return `${value}${THIN}B`;
}

/** The time of day; with the date, where it is another day's. */
export function clock(ms) {
  const time = new Date(ms);
  const two = (number) => String(number).padStart(2, "0");
  const day = `${time.getFullYear()}-${two(time.getMonth() + 1)}-${two(time.getDate())}`;
  const text = `${two(time.getHours())}:${two(time.getMinutes())}:${two(time.getSeconds())}`;
  return time.toDateString() === new Date().toDateString() ? text : `${day} ${text}`;
}
