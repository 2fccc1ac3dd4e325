//! The simulator's short form: what `make simulate` shows, in a few seconds; and its goals, in order.

use scheduler::Policy;
use simulator::goals::{Block, Cell, EVEN};
use simulator::model::Model;
use simulator::recorded::Recording;
use simulator::report;
use simulator::run::run;
use simulator::scenario::{Scenario, Shape, Talk};

/// Two and a half minutes on four cores: long enough for OVS to act once or twice.
fn short(shape: Shape) -> Scenario {
    Scenario { seconds: 150.0, converged_s: 75.0, ..Scenario::new(shape, 4, 24) }
}

fn block(scenario: Scenario, policies: &[Policy]) -> Block {
    let model = Model { tick_ms: 10.0, ..Model::default() };
    let cell = |policy: &Policy| Cell { policy: *policy, runs: vec![run(&scenario, &model, *policy, 1).unwrap()] };
    let cells = policies.iter().map(cell).collect();
    Block::new(scenario, &model, cells)
}

#[test]
fn steady_loads_reach_all_goals() {
    for shape in [Shape::Constant, Shape::Poisson, Shape::Zipf] {
        let scenario = Scenario { load: 0.9, ..short(shape) };
        let block = block(scenario, &[Policy::Static, Policy::Balance, Policy::OvsAutoLb]);
        let verdict = block.verdict.unwrap();
        assert!(verdict.fewer_reached && verdict.moves_reached && verdict.even_reached == Some(true), "{verdict:?}");
        let under = |cell: &Cell| cell.mean(|run| run.under_served_cycles);
        assert!(under(&block.cells[0]) > 0.0, "{shape} would be served without any moves: it shows nothing");
        assert!(block.cells[1].mean(|run| run.largest_to_bound) <= EVEN);
    }
}

#[test]
fn a_flash_crowd_is_served_at_once() {
    let block = block(short(Shape::FlashCrowd), &[Policy::Balance, Policy::OvsAutoLb]);
    assert!(block.verdict.unwrap().fewer_reached, "{:?}", block.verdict);
}

/// Both goals, of the usual length and size, with one seed: more than twice OVS's moves would be seen here.
#[test]
fn loads_that_change_reach_both_goals() {
    let pairs = Scenario { talk: Talk::Pairs, load: 0.6, ..Scenario::new(Shape::Poisson, 8, 64) };
    let changing = [Shape::FlashCrowd, Shape::Churn, Shape::Elephant].map(|shape| Scenario::new(shape, 8, 64));
    for scenario in changing.into_iter().chain([pairs, Scenario::on_off(240.0, 8, 64)]) {
        let what = scenario.to_string();
        let verdict = block(scenario, &[Policy::Balance, Policy::OvsAutoLb]).verdict.unwrap();
        assert!(verdict.fewer_reached && verdict.moves_reached, "{what}: {verdict:?}");
    }
}

#[test]
fn loads_that_come_and_go_are_served_better_with_moves() {
    let block = block(short(Shape::OnOff), &[Policy::Balance, Policy::OvsAutoLb]);
    assert!(block.verdict.unwrap().fewer.is_none_or(|fewer| fewer > 2.0), "{:?}", block.verdict);
}

#[test]
fn what_no_policy_can_reach_is_said() {
    // OVS acts once a minute: not on this. Who does the same leaves more than a tenth of what it leaves.
    let block = block(Scenario { on_s: 2.0, ..short(Shape::OnOff) }, &[Policy::Balance, Policy::OvsAutoLb]);
    let verdict = block.verdict.unwrap();
    assert!(verdict.fewer > Some(2.0) && !verdict.moves_reached && verdict.shown_unreachable, "{verdict:?}");
    let theirs = block.cells[1].mean(|run| run.under_served_cycles);
    assert!(block.standing_cycles.is_some_and(|cycles| theirs / 10.0 < cycles && cycles < theirs), "{block:?}");
    let table = report::table(&[block]);
    assert!(
        table.contains("**missed** as by any") && table.contains("Whoever moves nothing once converged"),
        "{table}"
    );
}

#[test]
fn where_guests_come_and_go_ovs_assigns_anew() {
    let block = block(short(Shape::Churn), &[Policy::Static, Policy::OvsCycles, Policy::OvsAutoLb, Policy::Balance]);
    let [stays, cycles, alone, ours] = [0, 1, 2, 3].map(|cell: usize| &block.cells[cell].runs[0]);
    assert_eq!(stays.moves, 0);
    assert!(cycles.moves > 0 && alone.moves > 0, "they are not static here: {} and {}", cycles.moves, alone.moves);
    let least = stays.under_served_cycles.min(cycles.under_served_cycles);
    assert!(ours.under_served_cycles < least && ours.moves < cycles.moves, "{ours:?}");
}

#[test]
fn what_no_policy_can_serve_is_told_apart() {
    let block = block(short(Shape::Elephant), &[Policy::Balance, Policy::OvsAutoLb]);
    let [ours, theirs] = [&block.cells[0].runs[0], &block.cells[1].runs[0]];
    // The guest asks for 1.3 cores, all together for 3.4.
    let unservable = ours.unservable_cycles / ours.demanded_cycles;
    assert!((unservable - 0.3 / 3.4).abs() < 1e-3, "{unservable}");
    assert_eq!(ours.unservable_cycles, theirs.unservable_cycles);
    let parts = ours.unservable_cycles + ours.under_served_beyond_cycles;
    assert!((parts / ours.under_served_cycles - 1.0).abs() < 1e-9, "{parts}");
    let verdict = block.verdict.unwrap();
    assert!(verdict.fewer > verdict.fewer_of_all && verdict.fewer_of_all.is_some(), "{verdict:?}");
    assert!(report::table(&[block]).contains("(of all: "));
}

#[test]
fn guests_that_talk_come_together() {
    let scenario = Scenario { talk: Talk::Pairs, load: 0.5, ..short(Shape::Constant) };
    let block = block(scenario, &[Policy::Balance, Policy::OvsAutoLb]);
    assert!(block.verdict.unwrap().fewer_reached, "{:?}", block.verdict);
}

#[test]
fn cores_are_parked_if_they_may() {
    let scenario = Scenario { load: 0.2, elastic_min: Some(1), ..short(Shape::Poisson) };
    let block = block(scenario, &[Policy::Balance]);
    assert!(block.cells[0].runs[0].seconds.last().unwrap().awake <= 2);
    assert!(block.cells[0].mean(|run| run.under_served_cycles / run.demanded_cycles) < 1e-4);
}

#[test]
fn the_same_seed_gives_the_same_result() {
    let scenario = short(Shape::OnOff);
    let one = block(scenario.clone(), &[Policy::Balance]);
    assert_eq!(one, block(scenario, &[Policy::Balance]));
}

/// So many seconds of two guests that fill the first of two cores, where they are placed with a third in turn, and of that one.
fn recording(seconds: usize, model: &Model) -> Recording {
    let full = model.packets_a_tick();
    Recording::new(vec![vec![full * 0.6, full * 0.1, full * 0.6, 0.0]; seconds * 200]).unwrap()
}

#[test]
fn a_recording_has_its_own_length_and_load() {
    let model = Model::default();
    let scenario = Scenario::recorded(recording(20, &model), 2, &model);
    assert_eq!((scenario.guests, scenario.seconds, scenario.converged_s), (4, 20.0, 6.0));
    assert!((scenario.load - 0.65).abs() < 1e-9, "{}", scenario.load);
    let cell = |policy| Cell { policy, runs: vec![run(&scenario, &model, policy, 1).unwrap()] };
    let cells = vec![cell(Policy::Static), cell(Policy::Balance)];
    let [stays, moves] = [&cells[0].runs[0], &cells[1].runs[0]];
    assert_eq!((stays.seconds.len(), moves.seconds.len()), (20, 20));
    assert!(stays.under_served_converged_cycles > 0.0 && moves.under_served_converged_cycles < 1.0, "{moves:?}");
    assert!((stays.largest_to_bound - 1.2 / 0.65).abs() < 1e-6 && moves.moves > 0, "{stays:?}");
    let table = report::table(&[Block::new(scenario, &model, cells)]);
    assert!(table.contains("20 s, of which 6 s are for converging; 65 % load on average"), "{table}");
}

#[test]
fn a_recording_that_ends_before_it_has_converged_shows_nothing() {
    let model = Model::default();
    let scenario = Scenario { converged_s: 180.0, ..Scenario::recorded(recording(2, &model), 2, &model) };
    let error = run(&scenario, &model, Policy::Balance, 1).unwrap_err();
    assert_eq!(error.to_string(), "the load lasts 2 s: nothing is left after 180 s for converging");
}

#[test]
fn the_worst_second_is_told_besides_the_mean() {
    let block = block(short(Shape::Poisson), &[Policy::Static, Policy::Balance]);
    for run in block.cells.iter().flat_map(|cell| &cell.runs) {
        let after = &run.seconds[75..];
        let above = |ratio: f64| after.iter().filter(|second| second.ratio() > ratio).count();
        assert_eq!((above(run.largest_to_bound_max), above(run.largest_to_bound_p99)), (0, after.len() / 100));
        assert!(run.largest_to_bound < run.largest_to_bound_p99, "{run:?}");
        assert!(after.iter().any(|second| second.ratio() == run.largest_to_bound_max));
    }
}

#[test]
fn reports_are_whole() {
    let block = block(short(Shape::Poisson), &Policy::ALL);
    let directory = tempfile::tempdir().unwrap();
    let files = report::write(directory.path(), &Model::default(), &[block]).unwrap();
    assert_eq!(files.len(), 5);
    let json = std::fs::read_to_string(&files[0]).unwrap();
    let results: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(results["blocks"][0]["cells"].as_array().unwrap().len(), Policy::ALL.len());
    let table = std::fs::read_to_string(&files[1]).unwrap();
    assert!(Policy::ALL.iter().all(|policy| table.contains(policy.name())), "{table}");
    for picture in &files[2..] {
        let svg = std::fs::read_to_string(picture).unwrap();
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
    }
}
