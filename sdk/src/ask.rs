//! The actions that a plan can hold, as data: names, numbers and encodings all follow from one table. Performs and
//! checks nothing: `Plan::push` checks.

use std::fmt;

use crate::contract::Interface;
use crate::query::Test;
use crate::span::Span;

/// One kind of action: its name in the journal, and the call that asks for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kind {
    /// The name in the journal, such as `disconnect-if-silent`.
    pub name: &'static str,
    /// The interface, which is also the grant.
    pub interface: Interface,
    /// `interface.function`.
    pub call: &'static str,
}

/// What one field of an ask means. Code that writes or checks asks goes through the fields.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AskField<'a> {
    /// A row of the peers.
    Peer(&'a u32),
    /// A row of the address book.
    Address(&'a u32),
    /// Rows of the peers.
    Peers(&'a [u32]),
    /// Tests on rows of the peers; a row must pass all of them.
    Tests(&'a [Test]),
    /// Points of health, up or down.
    Points(&'a i32),
    /// A duration in seconds.
    Lasting(&'a u32),
    /// An age in seconds.
    Age(&'a u32),
    /// Ticks from now.
    Ticks(&'a u32),
    /// The reason.
    Reason(&'a str),
}

/// The same fields, mutable.
#[derive(PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the docs are those of AskField")]
pub enum AskFieldMut<'a> {
    Peer(&'a mut u32),
    Address(&'a mut u32),
    Peers(&'a mut Vec<u32>),
    Tests(&'a mut Vec<Test>),
    Points(&'a mut i32),
    Lasting(&'a mut u32),
    Age(&'a mut u32),
    Ticks(&'a mut u32),
    Reason(&'a mut String),
}

/// The largest number of fields of a kind.
const MOST_FIELDS: usize = 3;

macro_rules! asks {
    ($($(#[$doc:meta])* $number:literal: $variant:ident { $($field:ident: $meaning:ident($type:ty)),* }
        = $name:literal, $interface:ident, $call:literal;)*) => {
        /// One action that a phase asks for. Rows are rows of the run's view.
        #[non_exhaustive]
        #[derive(Clone, PartialEq, Eq, Debug)]
        #[expect(missing_docs, reason = "names explain the fields and contain the units")]
        pub enum Ask {
            $($(#[$doc])* $variant { $($field: $type),* },)*
        }

        /// Every kind of action. The index is the number in the journal and in the C table, so only append.
        pub const KINDS: &[Kind] =
            &[$(Kind { name: $name, interface: Interface::$interface, call: $call }),*];

        impl Ask {
            /// Number of this kind: the index into [`KINDS`].
            pub fn number(&self) -> usize {
                match self {
                    $(Ask::$variant { .. } => $number,)*
                }
            }

            /// The fields, in the table's order.
            pub fn fields(&self) -> impl Iterator<Item = AskField<'_>> {
                let fields = match self {
                    $(Ask::$variant { $($field),* } => padded([$(AskField::$meaning($field)),*]),)*
                };
                fields.into_iter().flatten()
            }

            /// The same fields, mutable.
            pub fn fields_mut(&mut self) -> impl Iterator<Item = AskFieldMut<'_>> {
                let fields = match self {
                    $(Ask::$variant { $($field),* } => padded([$(AskFieldMut::$meaning($field)),*]),)*
                };
                fields.into_iter().flatten()
            }

            /// An ask of this number with empty fields; None if there is no such kind.
            pub fn empty(number: usize) -> Option<Ask> {
                match number {
                    $($number => Some(Ask::$variant { $($field: Default::default()),* }),)*
                    _ => None,
                }
            }
        }
    };
}

// Number: the ask = its name in the journal, the interface, the call. A recording stores the fields in this order.
asks! {
    /// Ends a connection. The peer gets the reason.
    0: Disconnect { peer: Peer(u32), reason: Reason(String) } = "disconnect", Disconnect, "disconnect.ask";
    /// Ends a connection unless the peer spoke since the view was taken.
    1: DisconnectIfSilent { peer: Peer(u32), reason: Reason(String) }
        = "disconnect-if-silent", Disconnect, "disconnect.ask-if-silent";
    /// Changes health, which stays within 0 to 100.
    2: Health { peer: Peer(u32), by: Points(i32), reason: Reason(String) } = "health", Health, "health.adjust";
    /// Pings these rows.
    3: Ping { peers: Peers(Vec<u32>) } = "ping", Ping, "ping.ask";
    /// Pings every row that passes every test.
    4: PingMatching { tests: Tests(Vec<Test>) } = "ping-matching", Ping, "ping.matching";
    /// Dials a row of the book.
    5: Dial { address: Address(u32), reason: Reason(String) } = "dial", Dial, "dial.ask";
    /// Connects, does the handshake and disconnects, to learn whether the address is alive.
    6: Probe { address: Address(u32) } = "probe", Dial, "dial.probe";
    /// Keeps other phases from disconnecting a peer.
    7: Protect { peer: Peer(u32), for_s: Lasting(u32), reason: Reason(String) } = "protect", Protect, "protect.ask";
    /// Ends the connection and refuses the peer's key for a while.
    8: Ban { peer: Peer(u32), for_s: Lasting(u32), reason: Reason(String) } = "ban", Ban, "ban.ask";
    /// Forgets broadcasts older than this.
    9: ForgetBroadcasts { older_than_s: Age(u32) } = "forget-broadcasts", Forget, "forget.broadcasts";
    /// Forgets addresses that were not named for this long.
    10: ForgetAddresses { not_heard_for_s: Age(u32) } = "forget-addresses", Forget, "forget.addresses";
    /// Runs this phase again after this many ticks, once.
    11: AgainIn { ticks: Ticks(u32) } = "again-in", Cadence, "cadence.again-in";
}

fn padded<F, const N: usize>(fields: [F; N]) -> [Option<F>; MOST_FIELDS] {
    const { assert!(N <= MOST_FIELDS, "a kind has more fields than MOST_FIELDS") };
    let mut fields = fields.into_iter();
    std::array::from_fn(|_| fields.next())
}

impl Ask {
    fn entry(&self) -> &'static Kind {
        &KINDS[self.number()]
    }

    /// The interface of its call, which is also its grant: `disconnect`.
    pub fn interface(&self) -> Interface {
        self.entry().interface
    }

    /// The name in the journal: `disconnect`, `disconnect-if-silent`.
    pub fn kind(&self) -> &'static str {
        self.entry().name
    }

    /// The call that asks for it: `disconnect.ask-if-silent`.
    pub fn call(&self) -> &'static str {
        self.entry().call
    }

    /// The reason; empty for the kinds that have none.
    pub fn reason(&self) -> &str {
        let reason = self.fields().find_map(|field| match field {
            AskField::Reason(reason) => Some(reason),
            _ => None,
        });
        reason.unwrap_or_default()
    }
}

/// One line: the kind, its row and numbers, and the reason after a colon.
impl fmt::Display for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())?;
        self.fields().try_for_each(|field| match field {
            AskField::Peer(row) | AskField::Address(row) => write!(f, " {row}"),
            AskField::Peers(rows) => rows.iter().try_for_each(|row| write!(f, " {row}")),
            AskField::Tests([]) => f.write_str(" all"),
            AskField::Tests(tests) => tests.iter().enumerate().try_for_each(|(i, test)| {
                f.write_str(if i == 0 { " " } else { ", " })?;
                write!(f, "{test}")
            }),
            AskField::Points(by) => write!(f, " {by:+}"),
            AskField::Lasting(s) => write!(f, " for {}", Span::secs(u64::from(*s))),
            AskField::Age(s) => write!(f, " {}", Span::secs(u64::from(*s))),
            AskField::Ticks(ticks) => write!(f, " {ticks}"),
            AskField::Reason(reason) => write!(f, ": {reason}"),
        })
    }
}
