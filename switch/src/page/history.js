// The last minutes of what is drawn as a line.

/** What is remembered of a port. */
const OF_PORT = ["load", "txPackets", "rxPackets", "dropRate"];

export class History {
  /** How far back it goes, in milliseconds. */
  span = 120_000;
  #now = 0;
  #lines = new Map();

  clear() {
    this.#lines.clear();
  }

  /** Adds what is going on at `time`, and forgets what is too old. Ports that are gone are forgotten with it. */
  add(time, { cores, ports }) {
    this.#now = time;
    cores.forEach((core) => this.#note(`core:${core.core}`, time, core.busy));
    ports.forEach((port) => OF_PORT.forEach((key) => this.#note(`port:${port.name}:${key}`, time, port[key])));
    for (const [key, line] of this.#lines) {
      const first = line.findIndex(([at]) => at >= time - this.span);
      if (first < 0) {
        this.#lines.delete(key);
      } else {
        line.splice(0, first);
      }
    }
  }

  #note(key, time, value) {
    if (value !== null) {
      const line = this.#lines.get(key) ?? this.#lines.set(key, []).get(key);
      line.push([time, value]);
    }
  }

  /** Pairs of milliseconds ago and value, the oldest first. */
  points(key) {
    return (this.#lines.get(key) ?? []).map(([time, value]) => [this.#now - time, value]);
  }
}
