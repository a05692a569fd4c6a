//! The built-in phase as a module.

groundskeeper_sdk::export!(groundskeeper_phases::Reconnect);
