//! The phase that asks for everything as a module.

groundskeeper_sdk::export!(groundskeeper_guests::Everything);
