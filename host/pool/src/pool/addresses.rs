//! The remote address of each slot: 6 bytes for IPv4, 22 for IPv6.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::rows::BLOCK;

/// Addresses by slot, for all slots used so far.
pub(super) struct Addresses {
    /// The IPv4 address, or an index into `long`.
    short: Vec<u32>,
    ports: Vec<u16>,
    /// One bit per slot: set if the address is in `long`.
    is_long: Vec<u64>,
    /// IPv6 addresses, in pieces that never move, so that no insert waits for a copy.
    long: Vec<Box<[Ipv6Addr; PIECE]>>,
    /// Entries of `long` used so far; the next unused one follows them.
    taken: u32,
    free: Vec<u32>,
}

/// IPv6 addresses per allocation: 4 KiB.
const PIECE: usize = 256;

impl Addresses {
    pub(super) fn new(room: usize) -> Self {
        Self {
            short: Vec::with_capacity(room),
            ports: Vec::with_capacity(room),
            is_long: Vec::with_capacity(room.div_ceil(BLOCK)),
            long: Vec::new(),
            taken: 0,
            free: Vec::new(),
        }
    }

    /// Adds the next slot.
    pub(super) fn grow(&mut self) {
        self.short.push(0);
        self.ports.push(0);
        self.is_long.resize(self.short.len().div_ceil(BLOCK), 0);
    }

    fn is_long(&self, slot: usize) -> bool {
        self.is_long[slot / BLOCK] >> (slot % BLOCK) & 1 == 1
    }

    pub(super) fn set(&mut self, slot: u32, address: SocketAddr) {
        let at = slot as usize;
        self.forget(slot);
        self.ports[at] = address.port();
        self.short[at] = match address.ip() {
            IpAddr::V4(v4) => v4.to_bits(),
            IpAddr::V6(v6) => {
                self.is_long[at / BLOCK] |= 1 << (at % BLOCK);
                let place = self.free.pop().unwrap_or_else(|| {
                    self.taken += 1;
                    self.taken - 1
                });
                let piece = place as usize / PIECE;
                if piece == self.long.len() {
                    self.long.push(Box::new([Ipv6Addr::UNSPECIFIED; PIECE]));
                }
                self.long[piece][place as usize % PIECE] = v6;
                place
            }
        };
    }

    /// Frees the slot's entry in `long`. The slot then has no valid address.
    pub(super) fn forget(&mut self, slot: u32) {
        let at = slot as usize;
        if self.is_long(at) {
            self.is_long[at / BLOCK] &= !(1 << (at % BLOCK));
            self.free.push(self.short[at]);
        }
    }

    pub(super) fn get(&self, slot: u32) -> SocketAddr {
        let at = slot as usize;
        let short = self.short[at];
        let ip = if self.is_long(at) {
            IpAddr::V6(self.long[short as usize / PIECE][short as usize % PIECE])
        } else {
            IpAddr::V4(Ipv4Addr::from_bits(short))
        };
        SocketAddr::new(ip, self.ports[at])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_and_short_addresses_take_turns_in_slots_and_room_is_used_again() {
        let mut addresses = Addresses::new(0);
        let v4 = |n: u32| SocketAddr::from(([10, 0, (n >> 8) as u8, n as u8], n as u16));
        let v6 = |n: u32| SocketAddr::from(([0x2001, n as u16, 0, 0, 0, 0, 0, 1], n as u16));
        for _ in 0..600 {
            addresses.grow();
        }
        for round in 0..4 {
            let address = |slot: u32| {
                if (slot + round).is_multiple_of(3) { v6(slot + round) } else { v4(slot + round) }
            };
            (0..600).for_each(|slot| addresses.set(slot, address(slot)));
            (0..600).for_each(|slot| assert_eq!(addresses.get(slot), address(slot)));
        }
        assert!(addresses.taken <= 400, "{} places for 200 long addresses", addresses.taken);
        (0..600).for_each(|slot| addresses.forget(slot));
        assert_eq!(addresses.free.len(), addresses.taken as usize);
    }
}
