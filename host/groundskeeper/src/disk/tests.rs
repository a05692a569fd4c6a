use std::sync::mpsc::channel;

use super::*;

#[tokio::test]
async fn a_job_that_hangs_is_given_up_and_its_thread_works_again_when_it_returns() {
    let thread = DiskThread::start("test", || 0).unwrap();
    let (release, hung) = channel::<()>();
    let hang = move |count: &mut i32| {
        *count += 1;
        _ = hung.recv();
    };
    let short = Duration::from_millis(1);
    assert!(matches!(thread.ask(short, hang).await, Err(NoAnswer::Busy(_))));
    assert!(matches!(thread.ask(short, |_| ()).await, Err(NoAnswer::Busy(_))));
    drop(release);
    let long = Duration::from_secs(30);
    assert_eq!(thread.ask(long, |count| *count).await, Ok(1));
}

#[tokio::test]
async fn a_job_that_panics_ends_its_thread_and_later_jobs_fail_at_once() {
    let thread = DiskThread::start("test", || ()).unwrap();
    let long = Duration::from_secs(30);
    assert_eq!(thread.ask(long, |()| panic!("on purpose")).await, Err::<(), _>(NoAnswer::Ended));
    assert_eq!(thread.ask(long, |()| ()).await, Err(NoAnswer::Ended));
}

#[test]
fn only_the_outer_call_counts_and_a_panic_ends_it() {
    let calls = DiskCalls::new(DiskUser::Phases);
    calls.during("watch", Path::new("a"), || {
        calls.during("list", Path::new("b"), || ());
        let call = calls.current.lock().clone().unwrap();
        assert_eq!((call.what, &*call.path), ("watch", Path::new("a")));
    });
    let panics = || calls.during("read", Path::new("a"), || panic!("on purpose"));
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics)).unwrap_err();
    assert!(calls.current.lock().is_none() && calls.trouble().is_none());
}
