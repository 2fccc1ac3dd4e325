#!/usr/bin/env python3
"""Writes the Grafana dashboards, grafana/*.json, from what is below. Needs nothing but Python.

  dashboards/generate.py           write them
  dashboards/generate.py --check   say whether they are what would be written

`make test` runs the check, validates the result against Grafana's dashboard schema (check-schema.py), and asks every expression of every
panel of a real Prometheus that scrapes a real switch.
"""

import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCE = {"type": "prometheus", "uid": "${datasource}"}

# What every expression selects by. INSTANCE and PORT are the dashboards' variables.
INSTANCE = 'instance=~"$instance"'
PORT = INSTANCE + ',port=~"$port"'
# Drops that somebody should look at.
COUNTED = INSTANCE + ',reason!="receiver_not_ready"'
RATE = "$__rate_interval"

GREEN, YELLOW, RED, BLUE = "green", "yellow", "red", "blue"


def rate(metric, labels):
    return f"rate({metric}{{{labels}}}[{RATE}])"


def steps(*limits):
    """Thresholds: a colour from the beginning on, then others from a value on."""
    return {
        "mode": "absolute",
        "steps": [{"color": color, "value": None if i == 0 else value} for i, (value, color) in enumerate(limits)],
    }


FINE = steps((0, GREEN))


def target(expr, legend, ref="A", **more):
    return {"refId": ref, "datasource": SOURCE, "expr": expr, "legendFormat": legend, **more}


def targets(exprs, **more):
    return [target(expr, legend, chr(ord("A") + i), **more) for i, (expr, legend) in enumerate(exprs)]


def panel(kind, title, description, exprs, unit, thresholds, size, **more):
    return {
        "type": kind,
        "title": title,
        "description": description,
        "datasource": SOURCE,
        "gridPos": {"w": size[0], "h": size[1], "x": 0, "y": 0},
        "targets": exprs,
        "fieldConfig": {"defaults": {"unit": unit, "thresholds": thresholds}, "overrides": []},
        **more,
    }


def stat(title, description, expr, unit="short", thresholds=FINE, width=4):
    options = {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "colorMode": "value",
        "graphMode": "area",
        "textMode": "auto",
    }
    return panel("stat", title, description, targets([(expr, title)]), unit, thresholds, (width, 4), options=options)


def graph(title, description, exprs, unit="short", thresholds=None, width=12, stack=False, top=None, link=None):
    limits = thresholds or FINE
    made = panel("timeseries", title, description, targets(exprs), unit, limits, (width, 8))
    made["options"] = {
        "legend": {"showLegend": True, "displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull", "max"]},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    custom = {"lineWidth": 1, "fillOpacity": 30 if stack else 10, "showPoints": "never", "spanNulls": False}
    custom["stacking"] = {"mode": "normal" if stack else "none", "group": "A"}
    if thresholds:
        custom["thresholdsStyle"] = {"mode": "line"}
    defaults = made["fieldConfig"]["defaults"]
    defaults |= {"custom": custom, "min": 0}
    if top is not None:
        defaults["max"] = top
    if link:
        defaults["links"] = [link]
    return made


def states(title, description, exprs, mappings, width=24):
    made = panel("state-timeline", title, description, targets(exprs), "short", FINE, (width, 6))
    made["options"] = {"showValue": "never", "mergeValues": True, "rowHeight": 0.8}
    made["fieldConfig"]["defaults"]["mappings"] = [
        {"type": "value", "options": {value: {"text": text, "color": color} for value, (text, color) in mappings.items()}}
    ]
    return made


def heatmap(title, description, expr, width=12):
    made = panel("heatmap", title, description, [target(expr, "{{le}}", format="heatmap")], "s", FINE, (width, 8))
    made["options"] = {
        "calculate": False,
        "yAxis": {"unit": "s"},
        "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64},
        "tooltip": {"show": True, "yHistogram": False},
    }
    return made


def table(title, description, expr, columns, width=12, link=None):
    """Columns: label (or "Value"), its heading."""
    made = panel("table", title, description, [target(expr, "", format="table", instant=True)], "short", FINE, (width, 8))
    hidden = ["Time", "Value", "__name__", "instance", "job"]
    made["transformations"] = [
        {
            "id": "organize",
            "options": {
                "excludeByName": {name: True for name in hidden if name not in columns},
                "indexByName": {name: index for index, name in enumerate(columns)},
                "renameByName": columns,
            },
        }
    ]
    if link:
        made["fieldConfig"]["overrides"] = [
            {"matcher": {"id": "byName", "options": columns["port"]}, "properties": [{"id": "links", "value": [link]}]}
        ]
    return made


def ports_graph(title, description, exprs, unit, width=12):
    """Ports, each of which leads to the dashboard of its kind: an expression for guests, and one for uplinks."""
    made = graph(title, description, [(expr, "{{port}}") for expr in exprs], unit, width=width)
    made["fieldConfig"]["overrides"] = [
        {"matcher": {"id": "byFrameRefID", "options": target["refId"]}, "properties": [{"id": "links", "value": [link]}]}
        for target, link in zip(made["targets"], (TO_GUEST, TO_UPLINK))
    ]
    return made


def row(title):
    return {"type": "row", "title": title, "collapsed": False, "panels": [], "gridPos": {"w": 24, "h": 1, "x": 0, "y": 0}}


def to_dashboard(title, uid, variable, value):
    return {"title": title, "url": f"/d/{uid}?var-instance=${{instance:percentencode}}&var-{variable}={value}&${{__url_time_range}}"}


TO_GUEST = to_dashboard("The guest", "sidecore-guest", "port", "${__field.labels.port}")
TO_GUEST_ROW = to_dashboard("The guest", "sidecore-guest", "port", "${__value.text}")
TO_UPLINK = to_dashboard("The uplink", "sidecore-uplink", "port", "${__field.labels.port}")
TO_CORE = to_dashboard("The I/O core", "sidecore-cores", "core", "${__field.labels.core}")


def variable(name, label, query):
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "sort": 3,
        "includeAll": True,
        "multi": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
        "options": [],
        "regex": "",
        "hide": 0,
    }


def annotation(name, color, expr, title, text, value_is_time=False):
    made = {
        "name": name,
        "datasource": SOURCE,
        "enable": True,
        "iconColor": color,
        "expr": expr,
        "titleFormat": title,
        "textFormat": text,
        "step": "1s",
    }
    if value_is_time:
        made["useValueForTime"] = "on"
    return made


def place(panels):
    """From left to right, then down."""
    x = y = height = 0
    for number, one in enumerate(panels, 1):
        grid = one["gridPos"]
        if x + grid["w"] > 24:
            x, y, height = 0, y + height, 0
        grid["x"], grid["y"] = x, y
        one["id"] = number
        x, height = x + grid["w"], max(height, grid["h"])
    return panels


def dashboard(uid, title, description, variables, panels):
    source = {
        "name": "datasource",
        "label": "Prometheus",
        "type": "datasource",
        "query": "prometheus",
        "current": {},
        "options": [],
        "regex": "",
        "refresh": 1,
        "hide": 0,
        "includeAll": False,
        "multi": False,
    }
    switch = variable("instance", "Switch", "label_values(sidecore_info, instance)")
    moves = annotation(
        "Moves",
        BLUE,
        f"sidecore_queue_last_move_timestamp_seconds{{{INSTANCE}}} * 1000",
        "A queue pair moved",
        "queue pair {{queue}} of {{port}}, at {{instance}}",
        value_is_time=True,
    )
    stuck = annotation(
        "Saturated, nothing helps",
        RED,
        f"sidecore_scheduler_cannot_fix{{{INSTANCE}}} == 1",
        "An I/O core is full, and no move would help",
        "sidecore scheduler status says why ({{instance}})",
    )
    link = {
        "type": "dashboards",
        "title": "Sidecore",
        "tags": ["sidecore"],
        "asDropdown": False,
        "includeVars": True,
        "keepTime": True,
        "targetBlank": False,
        "icon": "external link",
        "tooltip": "",
        "url": "",
    }
    return {
        "uid": uid,
        "title": f"Sidecore: {title}",
        "description": description,
        "tags": ["sidecore"],
        "editable": True,
        "graphTooltip": 1,
        "schemaVersion": 39,
        "version": 1,
        "time": {"from": "now-15m", "to": "now"},
        "refresh": "5s",
        "timezone": "browser",
        "annotations": {"list": [moves, stuck]},
        "links": [link],
        "templating": {"list": [source, switch, *variables]},
        "panels": place(panels),
    }


def of_kind(kind, metric, labels):
    return (
        f"sum by (port) ({rate(metric, labels)} * on (instance, port) group_left () "
        f'sidecore_port_info{{kind="{kind}"}})'
    )


def into_switch(what, labels):
    """Packets or bytes that the switch was given, by guests and by uplinks: guests' TX, uplinks' RX."""
    metric = "sidecore_queue_%s_" + what + "_total"
    return [of_kind("guest", metric % "tx", labels), of_kind("uplink", metric % "rx", labels)]


def out_of_switch(what, labels):
    metric = "sidecore_queue_%s_" + what + "_total"
    return [of_kind("guest", metric % "rx", labels), of_kind("uplink", metric % "tx", labels)]


def busy(labels):
    used, unused = rate("sidecore_core_busy_seconds_total", labels), rate("sidecore_core_idle_seconds_total", labels)
    return f"{used} / ({used} + {unused})"


def quantiles(labels, by="le"):
    of = f"sum by ({by}) ({rate('sidecore_core_latency_seconds_bucket', labels)})"
    return [(f"histogram_quantile({q}, {of})", f"p{round(100 * q)}") for q in (0.5, 0.99)]


def drops(labels, by):
    return f"sum by ({by}) ({rate('sidecore_queue_dropped_packets_total', labels)}) > 0"


BUSY_LIMITS = steps((0, GREEN), (0.8, YELLOW), (0.95, RED))
NONE_IS_BEST = steps((0, GREEN), (0.001, RED))


def overview():
    ports = variable("port", "Port", f"label_values(sidecore_port_info{{{INSTANCE}}}, port)")
    states_of = f'sidecore_port_state{{{PORT},state="%s"}} and on (instance, port) sidecore_port_info{{kind="%s"}}'
    panels = [
        stat("Guests running", "Guests whose rings are served.", f'sum(sidecore_port_state{{{INSTANCE},state="running"}}) or vector(0)'),
        stat("Guests not running", "Guests without a frontend, without a driver, or with a stopped ring.",
             f'sum(sidecore_port_state{{{INSTANCE},state=~"waiting|connected|stopped"}}) or vector(0)', thresholds=steps((0, GREEN), (1, YELLOW))),
        stat("Uplinks down", "Uplinks without a link.", f'sum(sidecore_port_state{{{INSTANCE},state="down"}}) or vector(0)',
             thresholds=steps((0, GREEN), (1, RED))),
        stat("Dropped", "Packets a second that went no further. Copies of floods for ports that nobody serves (receiver_not_ready) aside.",
             f"sum({rate('sidecore_queue_dropped_packets_total', COUNTED)})", "pps", NONE_IS_BEST),
        stat("Kicks", "Exits of guests that an I/O core that polls does not need: 0 is right.",
             f"sum({rate('sidecore_queue_kicks_polling_total', INSTANCE)})", "ops", NONE_IS_BEST),
        stat("Fullest I/O core", "The part of its time that the busiest I/O core moves packets. Near 100 % while \"Oldest work\" grows it is saturated; busy alone is not.",
             f"max({busy(INSTANCE)})", "percentunit", BUSY_LIMITS),
        row("Traffic"),
        ports_graph("Packets into the switch", "What guests send and what uplinks receive.", into_switch("packets", PORT), "pps"),
        ports_graph("Packets out of the switch", "What guests receive and what uplinks send.", out_of_switch("packets", PORT), "pps"),
        ports_graph("Bits into the switch", "Ethernet frames, without FCS.", [f"8 * {expr}" for expr in into_switch("bytes", PORT)], "bps"),
        ports_graph("Bits out of the switch", "Ethernet frames, without FCS.", [f"8 * {expr}" for expr in out_of_switch("bytes", PORT)], "bps"),
        row("Who suffers"),
        graph("Drops by reason", "Packets, and copies of floods, that went no further. dashboards/README.md says what each reason means.",
              [(drops(PORT, "reason"), "{{reason}}")], "pps", width=8),
        ports_graph("Drops by source", "The port whose packets were dropped.",
                    [f"{of_kind(kind, 'sidecore_queue_dropped_packets_total', PORT)} > 0" for kind in ("guest", "uplink")], "pps", width=8),
        graph("Oldest work", "How long the oldest packet in any transmit ring of an I/O core waited.",
              [(f"sidecore_core_oldest_wait_seconds{{{INSTANCE}}}", "I/O core {{core}}")], "s", width=8, link=TO_CORE),
        row("I/O cores"),
        graph("Busy", "The part of its time that an I/O core moves packets.", [(busy(INSTANCE), "I/O core {{core}}")], "percentunit", BUSY_LIMITS,
              top=1, link=TO_CORE),
        graph("Time in the switch", "From when packets were first seen until their receivers were shown them; one burst in 64 is measured.",
              quantiles(INSTANCE), "s"),
        row("State"),
        states("Ports", "Guests whose rings are served, uplinks with a link.",
               [(states_of % ("running", "guest"), "{{port}}"), (states_of % ("up", "uplink"), "{{port}}")],
               {"0": ("not", RED), "1": ("served", GREEN)}),
        graph("FDB", "Stations known, and how many there is room for.",
              [(f"sidecore_fdb_entries{{{INSTANCE}}}", "stations"), (f"sidecore_fdb_capacity_entries{{{INSTANCE}}}", "room")]),
        table("Guests", "Each guest's virtual machine.", f"sidecore_guest_vm_info{{{PORT}}}",
              {"port": "Port", "vm_name": "Virtual machine", "vm_uuid": "UUID"}, link=TO_GUEST_ROW),
    ]
    return dashboard("sidecore-overview", "overview", "What a switch forwards, drops and costs.", [ports], panels)


def guest():
    ports = variable("port", "Guest", f'label_values(sidecore_port_info{{{INSTANCE},kind="guest"}}, port)')
    packets = f"({rate('sidecore_queue_rx_packets_total', PORT)} + {rate('sidecore_queue_tx_packets_total', PORT)})"
    panels = [
        states("State", "Waiting: no frontend. Connected: no driver. Running: served. Stopped: the guest wrote what cannot be worked with.",
               [(f"sidecore_port_state{{{PORT}}} == 1", "{{port}}: {{state}}")], {"1": ("so", BLUE)}, width=12),
        table("Negotiated", "Ring format and virtio features.", f"sidecore_guest_info{{{PORT}}}",
              {"port": "Port", "ring": "Rings", "feature_names": "Features", "features": "Bits"}),
        row("Traffic"),
        graph("Packets", "From the guest's side.", [
            (f"sum by (port) ({rate('sidecore_queue_tx_packets_total', PORT)})", "{{port}} sends"),
            (f"sum by (port) ({rate('sidecore_queue_rx_packets_total', PORT)})", "{{port}} receives")], "pps"),
        graph("Bits", "From the guest's side; Ethernet frames, without FCS.", [
            (f"8 * sum by (port) ({rate('sidecore_queue_tx_bytes_total', PORT)})", "{{port}} sends"),
            (f"8 * sum by (port) ({rate('sidecore_queue_rx_bytes_total', PORT)})", "{{port}} receives")], "bps"),
        row("What goes wrong"),
        graph("Drops of what it sent", "By reason.", [(drops(PORT, "port, reason"), "{{port}}: {{reason}}")], "pps", width=8),
        graph("What it could not take", "Packets for the guest that its receive rings turned away, by reason.",
              [(f"sum by (port, reason) ({rate('sidecore_queue_refused_packets_total', PORT)}) > 0", "{{port}}: {{reason}}")], "pps", width=8),
        graph("Rings stopped", "Because of what the guest wrote there, by reason, since the switch started.",
              [(f"sum by (port, reason) (sidecore_port_ring_faults_total{{{PORT}}}) > 0", "{{port}}: {{reason}}")], width=8),
        row("Rings"),
        graph("Transmit ring: waiting", "Slots with work that an I/O core left over; 0 where each pull empties the ring.",
              [(f"sidecore_queue_backlog_slots{{{PORT}}}", "{{port}} queue {{queue}}")], width=8),
        graph("Transmit ring: oldest work", "How long the oldest packet waited.",
              [(f"sidecore_queue_oldest_wait_seconds{{{PORT}}}", "{{port}} queue {{queue}}")], "s", width=8),
        graph("Receive ring: free buffers", "Buffers the guest had posted that were not used. At 0, packets for it are dropped (rx_full).", [
            (f"sidecore_queue_posted_buffers{{{PORT}}}", "{{port}} queue {{queue}}"),
            (f'sidecore_queue_ring_entries{{{PORT},ring="rx"}}', "ring of {{port}} queue {{queue}}")], width=8),
        row("Cost"),
        graph("Time of I/O cores", "What part of an I/O core each queue pair takes.",
              [(rate("sidecore_queue_busy_seconds_total", PORT), "{{port}} queue {{queue}}")], "percentunit"),
        graph("I/O core", "Which one serves each queue pair.", [(f"sidecore_queue_io_core{{{PORT}}}", "{{port}} queue {{queue}}")]),
        graph("Kicks", "Exits of the guest to tell of a packet. 0 while I/O cores poll.",
              [(f"sum by (port) ({rate('sidecore_queue_kicks_polling_total', PORT)})", "{{port}}")], "ops", width=8),
        graph("Calls for each packet", "Interrupts sent to the guest. Below 1 where packets share them, 0 where the guest polls.",
              [(f"sum by (port) ({rate('sidecore_queue_calls_total', PORT)}) / (sum by (port) ({packets}) > 0)", "{{port}}")], width=8),
        graph("Session", "Connections of the frontend, and requests that were refused, since the switch started.", [
            (f"sidecore_port_connections_total{{{PORT}}}", "{{port}} connections"),
            (f"sidecore_port_refused_requests_total{{{PORT}}}", "{{port}} refused requests")], width=8),
    ]
    return dashboard("sidecore-guest", "guest", "One guest: its traffic, its rings, its cost.", [ports], panels)


def cores():
    core = INSTANCE + ',core=~"$core"'
    chosen = variable("core", "I/O core", f"label_values(sidecore_core_cpu{{{INSTANCE}}}, core)")
    pairs = f"sidecore_queue_io_core{{{INSTANCE}}}"
    panels = [
        graph("Busy", "The part of its time that an I/O core moves packets.", [(busy(core), "I/O core {{core}}")], "percentunit", BUSY_LIMITS, top=1),
        states("Saturated", "Busy nearly all of the time, while work waits.", [(f"sidecore_core_saturated{{{core}}}", "I/O core {{core}}")],
               {"0": ("fine", GREEN), "1": ("saturated", RED)}, width=6),
        states("Parked", "Asleep, since the others can do all there is to do.", [(f"sidecore_core_parked{{{core}}}", "I/O core {{core}}")],
               {"0": ("runs", GREEN), "1": ("parked", BLUE)}, width=6),
        row("Work"),
        graph("Oldest work", "How long the oldest packet in any transmit ring of the I/O core waited.",
              [(f"sidecore_core_oldest_wait_seconds{{{core}}}", "I/O core {{core}}")], "s", width=8),
        graph("Time in the switch", "From when packets were first seen until their receivers were shown them, on the core that did.",
              [(expr, "I/O core {{core}} " + name) for expr, name in quantiles(core, "core, le")], "s", width=8),
        heatmap("Time in the switch, all of it", "How many packets took how long; one burst in 64 is measured.",
                f"sum by (le) ({rate('sidecore_core_latency_seconds_bucket', core)})", width=8),
        graph("Without its CPU", "The part of the time that something else ran on an I/O core's CPU. Above 1 % the CPU is not kept free for it.",
              [(rate("sidecore_core_cpu_wait_seconds_total", core), "I/O core {{core}}")], "percentunit", width=6),
        graph("Handed to other cores", "Packets whose receiver another I/O core serves: they are copied twice.",
              [(rate("sidecore_core_handed_over_packets_total", core), "from I/O core {{core}}")], "pps", width=6),
        graph("Cost of a packet from another core", "Time to deliver it.", [
            (f"{rate('sidecore_core_received_seconds_total', core)} / ({rate('sidecore_core_received_packets_total', core)} > 0)", "I/O core {{core}}")],
              "s", width=6),
        graph("Learning", "Stations learnt, and stations found behind another port than before.", [
            (rate("sidecore_core_fdb_learned_total", core), "I/O core {{core}} learnt"),
            (rate("sidecore_core_fdb_moves_total", core), "I/O core {{core}} moved")], "ops", width=6),
        row("Scheduler"),
        stat("Cannot be fixed", "1 while an I/O core is saturated and no move would help.", f"max(sidecore_scheduler_cannot_fix{{{INSTANCE}}})",
             thresholds=steps((0, GREEN), (1, RED))),
        stat("Paused", "1 while the scheduler moves nothing by itself.", f"max(sidecore_scheduler_paused{{{INSTANCE}}})",
             thresholds=steps((0, GREEN), (1, YELLOW))),
        graph("Decisions", "By kind and reason, in the last minute; `sidecore scheduler status` has all that is known of the last ones.",
              [(f"sum by (kind, reason) (increase(sidecore_scheduler_decisions_total{{{INSTANCE}}}[1m])) > 0", "{{kind}}: {{reason}}")], width=8),
        graph("Pause of a move", "Time in which nobody served the queue pair.", [
            (f"histogram_quantile({q}, sum by (le) ({rate('sidecore_move_pause_seconds_bucket', INSTANCE)}))", name)
            for q, name in ((0.5, "p50"), (0.99, "p99"))], "s", width=8),
        graph("What moves gained", "I/O cores by which the fullest of those concerned became less full, in the last minute: as expected, as measured, and where a move made it fuller.", [
            (f"sum(increase(sidecore_scheduler_{what}_cores_total{{{INSTANCE}}}[1m]))", name)
            for what, name in (("expected_gain", "expected"), ("measured_gain", "measured"), ("measured_loss", "made worse"))], width=8),
        graph("Queue pairs", "How many each I/O core serves.", [(f"sidecore_core_queue_pairs{{{core}}}", "I/O core {{core}}")], width=8, stack=True),
        table("Where queue pairs are", "The I/O core that serves each.", pairs, {"port": "Port", "queue": "Queue", "Value": "I/O core"}, width=8,
              link=TO_GUEST_ROW),
    ]
    return dashboard("sidecore-cores", "I/O cores and scheduler", "How full the I/O cores are, and what the scheduler does about it.", [chosen], panels)


def uplink():
    ports = variable("port", "Uplink", f'label_values(sidecore_port_info{{{INSTANCE},kind="uplink"}}, port)')
    of_uplinks = 'and on (instance, port) sidecore_port_info{kind="uplink"}'
    by_port = lambda metric: f"sum by (instance, port) ({rate(metric, PORT)}) {of_uplinks}"
    panels = [
        states("Link", "Whether there is one.", [(f'sidecore_port_state{{{PORT},state="up"}} {of_uplinks}', "{{port}}")],
               {"0": ("down", RED), "1": ("up", GREEN)}, width=12),
        table("Device", "What the uplink is.", f'sidecore_port_info{{{PORT},kind="uplink"}}',
              {"port": "Port", "device": "Device", "driver": "Driver", "mac": "Address"}),
        row("Traffic"),
        graph("Packets", "From the wire's side.", [
            (by_port("sidecore_queue_rx_packets_total"), "{{port}} receives"), (by_port("sidecore_queue_tx_packets_total"), "{{port}} sends")], "pps"),
        graph("Bits", "From the wire's side; Ethernet frames, without FCS.", [
            ("8 * " + by_port("sidecore_queue_rx_bytes_total"), "{{port}} receives"),
            ("8 * " + by_port("sidecore_queue_tx_bytes_total"), "{{port}} sends")], "bps"),
        graph("Received, by queue", "How evenly the NIC spreads over its queues.",
              [(f"{rate('sidecore_queue_rx_packets_total', PORT)} {of_uplinks}", "{{port}} queue {{queue}}")], "pps", stack=True),
        graph("Drops of what came in", "By reason.", [(f"{drops(PORT, 'instance, port, reason')} {of_uplinks}", "{{port}}: {{reason}}")], "pps"),
        row("Device"),
        graph("Link and errors", "Packets that the device lost: before the switch saw them, or after it gave them away.",
              [(rate("sidecore_uplink_errors_total", PORT), "{{port}}: {{kind}}")], "pps", NONE_IS_BEST, width=8),
        graph("Packet buffers", "Free ones of the pool; those in receive rings are not free. At 0 nothing moves.", [
            (f"sidecore_uplink_mempool_free_mbufs{{{PORT}}}", "{{port}} free"), (f"sidecore_uplink_mempool_mbufs{{{PORT}}}", "{{port}} all")], width=8),
        table("Device statistics", "Under the names that the driver gives them.", f"sidecore_uplink_device_stat{{{PORT}}} > 0",
              {"port": "Port", "stat": "Statistic", "Value": "Value"}, width=8),
    ]
    return dashboard("sidecore-uplink", "uplink", "One uplink: its link, its traffic, its device.", [ports], panels)


def main():
    stale = []
    for name, made in (("overview", overview()), ("guest", guest()), ("cores", cores()), ("uplink", uplink())):
        path, text = HERE / "grafana" / f"{name}.json", json.dumps(made, indent=2) + "\n"
        if "--check" not in sys.argv[1:]:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            stale.append(path.name)
    if stale:
        sys.exit(f"not what dashboards/generate.py writes: {', '.join(stale)}")


if __name__ == "__main__":
    main()
