//! `sidecore top`, as scripts use it.

use crate::scene::Scene;

#[test]
fn top_prints_once_for_scripts() {
    let scene = Scene::start().unwrap();
    let text =
        scene.switch().must(&["top", "--once", "--interval", "0.1", "--sort", "name", "--filter", "guest"]).unwrap();
    let names: Vec<_> = text.lines().map(|line| line.split_whitespace().next().unwrap()).collect();
    assert_eq!(names, ["NAME", "db.2", "late", "web-1"]);
    let cores = scene.switch().must(&["top", "--once", "--interval", "0.1", "--view", "cores"]).unwrap();
    assert_eq!(cores.lines().count(), 4, "{cores}");
    let refused = scene.switch().cli(&["top"]).unwrap();
    assert!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("--once"), "{refused:?}");
    let wrong = scene.switch().cli(&["top", "--once", "--sort", "nonsense"]).unwrap();
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("there is no column \"nonsense\""), "{wrong:?}");
}
