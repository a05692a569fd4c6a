//! The system's own estimate of a TCP connection's round-trip time. Sends nothing.

use std::time::Duration;

use tokio::net::TcpStream;

/// The smoothed round-trip time (RFC 6298) of `stream`, in steps of 1 us; none before the first acknowledgement. One
/// system call, less than a microsecond.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "no library in use wraps the option TCP_INFO")]
pub(crate) fn rtt(stream: &TcpStream) -> Option<Duration> {
    use std::mem::{MaybeUninit, size_of};
    use std::os::fd::AsRawFd as _;

    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the descriptor is open, because `stream` is borrowed; the system writes at most `len` bytes to `info`.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    if result != 0 {
        return None;
    }
    // SAFETY: all fields are numbers, so zero bytes are valid values; an older system leaves the last fields at zero.
    let info = unsafe { info.assume_init() };
    (info.tcpi_rtt > 0).then(|| Duration::from_micros(info.tcpi_rtt.into()))
}

/// Not known on other systems.
#[cfg(not(target_os = "linux"))]
pub(crate) fn rtt(_: &TcpStream) -> Option<Duration> {
    None
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn both_ends_of_a_connection_know_its_round_trip_without_any_traffic() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dialled = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        for end in [&dialled, &accepted] {
            let rtt = rtt(end).expect("the handshake was measured");
            assert!(rtt > Duration::ZERO && rtt < Duration::from_secs(10), "{rtt:?}");
        }
    }
}
