//! What the system knows of a TCP connection: its estimate of the round trip, and how much the peer has acknowledged. Sends
//! nothing.

use std::time::Duration;

use tokio::net::TcpStream;

/// The smoothed round-trip time (RFC 6298) of `stream`, in steps of 1 us; none before the first acknowledgement. One
/// system call, less than a microsecond.
pub(crate) fn rtt(stream: &TcpStream) -> Option<Duration> {
    read(stream).map(|info| info.rtt).filter(|rtt| !rtt.is_zero())
}

/// Bytes of `stream` that the peer's system has acknowledged since the connection began. One system call.
pub(crate) fn acked(stream: &TcpStream) -> Option<u64> {
    read(stream)?.acked
}

struct TcpInfo {
    rtt: Duration,
    /// None before Linux 4.1.
    acked: Option<u64>,
}

#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "no library in use wraps the option TCP_INFO")]
fn read(stream: &TcpStream) -> Option<TcpInfo> {
    use std::mem::{MaybeUninit, offset_of, size_of};
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
    let has_acked = len as usize >= offset_of!(libc::tcp_info, tcpi_bytes_acked) + size_of::<u64>();
    let acked = has_acked.then_some(info.tcpi_bytes_acked);
    Some(TcpInfo { rtt: Duration::from_micros(info.tcpi_rtt.into()), acked })
}

/// Not known on other systems.
#[cfg(not(target_os = "linux"))]
fn read(_: &TcpStream) -> Option<TcpInfo> {
    None
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
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

    #[tokio::test]
    async fn acknowledged_bytes_are_counted() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut dialled = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut accepted, _) = listener.accept().await.unwrap();
        let before = acked(&dialled).expect("every Linux in use counts them");
        dialled.write_all(&[7; 10_000]).await.unwrap();
        accepted.read_exact(&mut [0; 10_000]).await.unwrap();
        // The acknowledgement may be delayed.
        while acked(&dialled).unwrap() < before + 10_000 {
            tokio::task::yield_now().await;
        }
    }

    /// Sockets as a large node has them: more than a processor's nearest cache holds.
    const SOCKETS: usize = 1_000;

    #[tokio::test]
    #[ignore = "a measurement: run it by its name and with --nocapture"]
    async fn the_cost_of_one_reading_among_a_thousand_sockets() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut pairs = Vec::new();
        for _ in 0..SOCKETS {
            let dialled = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            pairs.push((dialled, listener.accept().await.unwrap().0));
        }
        let mut costs: Vec<u128> = (0..31)
            .map(|_| {
                let begun = std::time::Instant::now();
                pairs.iter().for_each(|(dialled, _)| assert!(rtt(dialled).is_some()));
                begun.elapsed().as_nanos() / SOCKETS as u128
            })
            .collect();
        costs.sort_unstable();
        println!("one reading: {} ns, from {} to {}", costs[15], costs[0], costs[30]);
    }
}
