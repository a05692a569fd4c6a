//! Writes numbers, texts and lists of numbers as bytes, and reads them. Trusts no length that it reads.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};

/// The bytes are not what a recorder writes. Contains the reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct CorruptBytes(pub &'static str);

/// Writes seven bits per byte, lowest first; the top bit says that more bytes follow.
pub(super) fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

pub(super) fn put_text(out: &mut Vec<u8>, text: &str) {
    put_bytes(out, text.as_bytes());
}

/// Maps small distances in either direction to small numbers. Exact for all numbers.
pub(super) fn zigzag(number: i32) -> u32 {
    (number << 1 ^ number >> 31) as u32
}

pub(super) fn unzigzag(number: u32) -> i32 {
    (number >> 1) as i32 ^ -((number & 1) as i32)
}

/// Writes a list of rows as the distances from each row to the next.
pub(super) fn put_rows(out: &mut Vec<u8>, rows: impl ExactSizeIterator<Item = u32>) {
    put(out, rows.len() as u64);
    let mut last = 0_u32;
    for row in rows {
        put(out, zigzag(row.wrapping_sub(last) as i32).into());
        last = row;
    }
}

const V4: u8 = 4;
const V6: u8 = 6;
/// With flow label and scope, which few addresses have.
const V6_WHOLE: u8 = 7;

pub(super) fn put_address(out: &mut Vec<u8>, address: SocketAddr) {
    match address {
        SocketAddr::V4(v4) => {
            out.push(V4);
            out.extend_from_slice(&v4.ip().octets());
        }
        SocketAddr::V6(v6) => {
            let whole = v6.flowinfo() != 0 || v6.scope_id() != 0;
            out.push(if whole { V6_WHOLE } else { V6 });
            out.extend_from_slice(&v6.ip().octets());
            if whole {
                put(out, v6.flowinfo().into());
                put(out, v6.scope_id().into());
            }
        }
    }
    out.extend_from_slice(&address.port().to_le_bytes());
}

/// The bytes that are not read yet.
pub(super) struct ByteReader<'b>(pub &'b [u8]);

impl<'b> ByteReader<'b> {
    pub fn left(&self) -> usize {
        self.0.len()
    }

    pub fn byte(&mut self) -> Result<u8, CorruptBytes> {
        let (first, rest) = self.0.split_first().ok_or(CorruptBytes("it ends in the middle"))?;
        self.0 = rest;
        Ok(*first)
    }

    pub fn number(&mut self) -> Result<u64, CorruptBytes> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                return Err(CorruptBytes("a number is too large"));
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(CorruptBytes("a number is too long"))
    }

    pub fn small(&mut self) -> Result<u32, CorruptBytes> {
        self.number()?.try_into().map_err(|_| CorruptBytes("a number is too large"))
    }

    pub fn flag(&mut self) -> Result<bool, CorruptBytes> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(CorruptBytes("a flag is neither 0 nor 1")),
        }
    }

    /// Number of items that follow. Each takes at least one byte, so memory for them is proportional to the file.
    pub fn count(&mut self) -> Result<usize, CorruptBytes> {
        let count = self.number()?;
        if count > self.left() as u64 {
            return Err(CorruptBytes("a count is larger than what follows"));
        }
        Ok(count as usize)
    }

    pub fn exactly(&mut self, count: usize) -> Result<&'b [u8], CorruptBytes> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(CorruptBytes("it ends in the middle"))?;
        self.0 = rest;
        Ok(taken)
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], CorruptBytes> {
        self.exactly(N)?.try_into().map_err(|_| CorruptBytes("it ends in the middle"))
    }

    pub fn bytes(&mut self) -> Result<&'b [u8], CorruptBytes> {
        let count = self.count()?;
        self.exactly(count)
    }

    pub fn text(&mut self) -> Result<&'b str, CorruptBytes> {
        str::from_utf8(self.bytes()?).map_err(|_| CorruptBytes("a text is not UTF-8"))
    }

    pub fn rows(&mut self) -> Result<Vec<u32>, CorruptBytes> {
        let count = self.count()?;
        let mut last = 0_u32;
        (0..count)
            .map(|_| {
                last = last.wrapping_add(unzigzag(self.small()?) as u32);
                Ok(last)
            })
            .collect()
    }

    pub fn address(&mut self) -> Result<SocketAddr, CorruptBytes> {
        let kind = self.byte()?;
        let (mut flow, mut scope) = (0, 0);
        let ip: IpAddr = match kind {
            V4 => self.array::<4>()?.into(),
            V6 => self.array::<16>()?.into(),
            V6_WHOLE => {
                let ip = self.array::<16>()?.into();
                flow = self.small()?;
                scope = self.small()?;
                ip
            }
            _ => return Err(CorruptBytes("the kind of an address is not known")),
        };
        let port = u16::from_le_bytes(self.array()?);
        Ok(match ip {
            IpAddr::V4(v4) => (v4, port).into(),
            IpAddr::V6(v6) => SocketAddrV6::new(v6, port, flow, scope).into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_rows_and_addresses_come_back(
            number: u64, near: i32, rows: Vec<u32>, ip: std::net::IpAddr, port: u16, flow: u32, scope: u32,
        ) {
            let address = match ip {
                IpAddr::V4(v4) => SocketAddr::from((v4, port)),
                IpAddr::V6(v6) => SocketAddrV6::new(v6, port, flow, scope).into(),
            };
            let mut out = Vec::new();
            put(&mut out, number);
            put_rows(&mut out, rows.iter().copied());
            put_address(&mut out, address);
            put_text(&mut out, "naïve");
            let mut bytes = ByteReader(&out);
            prop_assert_eq!(bytes.number(), Ok(number));
            prop_assert_eq!(bytes.rows(), Ok(rows));
            prop_assert_eq!(bytes.address(), Ok(address));
            prop_assert_eq!(bytes.text(), Ok("naïve"));
            prop_assert_eq!(bytes.left(), 0);
            prop_assert_eq!(unzigzag(zigzag(near)), near);
        }

        #[test]
        fn any_bytes_are_read_or_refused(noise: Vec<u8>) {
            _ = ByteReader(&noise).number();
            _ = ByteReader(&noise).rows();
            _ = ByteReader(&noise).address();
            _ = ByteReader(&noise).text();
        }
    }

    #[test]
    fn a_count_is_no_promise_of_memory() {
        let mut out = Vec::new();
        put(&mut out, u64::MAX >> 1);
        assert!(ByteReader(&out).rows().is_err() && ByteReader(&out).bytes().is_err());
        assert!(ByteReader(&[0xff; 9]).number().is_err() && ByteReader(&[0xff; 12]).number().is_err());
    }
}
