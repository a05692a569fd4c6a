//! Both soaks, short: that something happens in them, and that nothing of it stays.

use std::time::Duration;

use groundskeeper_soak::meter::assert_flat;
use groundskeeper_soak::{paused, sockets};

// One test: they measure the process, and tests of one binary run side by side.
#[test]
fn a_node_under_churn_and_reloads_does_not_grow() {
    let folder = tempfile::tempdir().unwrap();
    let soaked = paused::run(2_000, folder.path(), 1).unwrap();
    assert!(soaked.ended > 500 && soaked.reloads > 3, "{soaked:?}");
    assert_flat(&soaked.samples).unwrap();

    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let soaked = runtime.block_on(sockets::run(200, Duration::from_millis(100), folder.path())).unwrap();
    assert!(soaked.ended > 3 && soaked.reloads > 2, "{soaked:?}");
    assert_flat(&soaked.samples).unwrap();
}
