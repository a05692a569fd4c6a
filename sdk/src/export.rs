//! Exports one phase as a module: a WebAssembly component or a shared library. Exports nothing where it is compiled in.
//!
//! # A component
//! The crate is a `cdylib` and depends on this crate alone. A manifest names the file that cargo builds for
//! `wasm32-unknown-unknown`; the host makes a component from it. This profile keeps the file small:
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
//! A crate that is also linked into a host is a `["cdylib", "rlib"]`, which turns off cargo's link-time optimisation;
//! `cargo rustc --release --target wasm32-unknown-unknown --crate-type cdylib` turns it on again. With it a phase
//! without settings is 19 KB and one with settings about 70 KB; without it 22 KB and 105 KB.
//!
//! A panic names its source file, so a module contains paths of the machine that built it. With
//! `RUSTFLAGS="--remap-path-prefix=$HOME=/home"` the module is the same on every machine.

use serde::de::DeserializeOwned;

use crate::phase::Phase;

/// The toolkit that built a phase, for its descriptor.
pub const TOOLKIT: &str = concat!("groundskeeper-sdk ", env!("CARGO_PKG_VERSION"));

/// Exports the phase of a crate. Use it once per crate.
///
/// For `wasm32-unknown-unknown` it exports the functions of a component. With this crate's feature `dylib` it exports
/// the entry of a shared library. Otherwise it only checks the types, so that one host can link many phases.
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
/// A phase without settings says so. It needs no `Deserialize`, and its component contains no JSON code, which would be
/// most of the bytes of a small one. It refuses any settings:
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

/// What [`export!`](crate::export!) knows about a phase.
#[doc(hidden)]
pub trait Exports {
    type Phase: Phase;
    /// The version of the phase's crate.
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

/// The phase, if its settings pass its check.
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
