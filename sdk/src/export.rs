//! Makes one phase a module of its own: a WebAssembly component or a shared library. Where it is compiled in, nothing.
//!
//! # A component
//! The crate is a `cdylib` and depends on this crate alone. What cargo builds for `wasm32-unknown-unknown` is what a
//! manifest names; the host makes a component of it. The profile that makes small ones:
//!
//! ```toml
//! [lib]
//! crate-type = ["cdylib"]
//!
//! [profile.release]
//! opt-level = "s"
//! lto = "fat"
//! codegen-units = 1
//! strip = "symbols"
//! ```
//!
//! A crate that is linked into a host as well is a `["cdylib", "rlib"]`, which turns cargo's link-time optimisation off;
//! `cargo rustc --release --target wasm32-unknown-unknown --crate-type cdylib` turns it on again. A phase without
//! settings is then 19 KB, one with settings some 70 KB; without it 22 KB and 105 KB.
//!
//! Panics name the file they happened in, so a module holds paths of the machine that built it; with
//! `RUSTFLAGS="--remap-path-prefix=$HOME=/home"` it is the same on every machine.

use serde::de::DeserializeOwned;

use crate::phase::Phase;

/// What a phase was built with, as its descriptor says.
pub const TOOLKIT: &str = concat!("groundskeeper-sdk ", env!("CARGO_PKG_VERSION"));

/// Makes a phase the phase of its crate, one per crate.
///
/// For `wasm32-unknown-unknown` it exports what a component exports; with this crate's feature `dylib` it exports the
/// entry of a shared library; otherwise it only checks the types, so that many phases link into one host.
///
/// ```
/// # use groundskeeper_sdk::prelude::*;
/// # #[derive(Deserialize)]
/// # #[serde(crate = "groundskeeper_sdk::serde")]
/// # struct SlowPeers { keep: u32 }
/// # impl Phase for SlowPeers {
/// #     fn run(&self, _: &Tick, _: &View, _: &mut Plan) -> Result { Ok(()) }
/// # }
/// groundskeeper_sdk::export!(SlowPeers);
/// ```
///
/// A phase without settings says so. It needs no `Deserialize`, and its component no JSON, which is most of the bytes
/// of a small one; settings other than none are refused:
///
/// ```
/// # use groundskeeper_sdk::prelude::*;
/// struct Pulse;
///
/// impl Phase for Pulse {
///     fn run(&self, _: &Tick, view: &View, plan: &mut Plan) -> Result {
///         plan.ping_matching(view.peers());
///         Ok(())
///     }
/// }
///
/// groundskeeper_sdk::export!(Pulse, no settings);
/// ```
#[macro_export]
macro_rules! export {
    ($phase:path) => {
        $crate::export!(@ $phase, $crate::export::from_json);
    };
    ($phase:path, no settings) => {
        $crate::export!(@ $phase, |settings| $crate::export::from_nothing(settings).map(|()| $phase));
    };
    (@ $phase:path, $read:expr) => {
        const _: () = {
            enum Exported {}

            impl $crate::export::Exports for Exported {
                type Phase = $phase;
                const VERSION: &'static str = ::core::env!("CARGO_PKG_VERSION");

                fn phase(settings: &str) -> ::core::result::Result<$phase, ::std::string::String> {
                    ($read)(settings)
                }
            }

            $crate::__export_entry!(Exported);
        };
    };
}

/// What [`export!`](crate::export!) says about a phase.
#[doc(hidden)]
pub trait Exports {
    type Phase: Phase;
    /// Of the phase's crate.
    const VERSION: &'static str;
    /// The phase with these settings, not yet checked.
    fn phase(settings: &str) -> Result<Self::Phase, String>;
}

#[doc(hidden)]
pub fn from_json<P: DeserializeOwned>(settings: &str) -> Result<P, String> {
    serde_json::from_str(settings).map_err(|error| format!("settings: {error}"))
}

#[doc(hidden)]
pub fn from_nothing(settings: &str) -> Result<(), String> {
    match settings == "{}" {
        true => Ok(()),
        false => Err("this phase has no settings; take [settings] out of its manifest".to_owned()),
    }
}

/// The phase with settings that it finds nothing wrong with.
pub(crate) fn checked<E: Exports>(settings: &str) -> Result<E::Phase, String> {
    let phase = E::phase(settings)?;
    phase.check()?;
    Ok(phase)
}

#[cfg(not(any(target_arch = "wasm32", feature = "dylib")))]
#[doc(hidden)]
#[macro_export]
macro_rules! __export_entry {
    ($exported:ident) => {
        const _: fn(
            &str,
        ) -> ::core::result::Result<
            <$exported as $crate::export::Exports>::Phase,
            ::std::string::String,
        > = <$exported as $crate::export::Exports>::phase;
    };
}
