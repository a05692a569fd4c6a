//! Asks of a guest: each is one call of the host. Keeps nothing.

use super::Test;
use super::bindings::groundskeeper::phase::{
    ban, cadence, dial, disconnect, forget, health, log, memory, metrics, ping, protect,
};
use crate::memory::Saved;
use crate::plan::Level;
use crate::view::View;

/// What [`Plan`](crate::plan::Plan) calls.
#[derive(Debug, Default)]
pub(crate) struct Asks;

impl Asks {
    pub(crate) fn disconnect(&mut self, peer: u32, reason: &str) {
        disconnect::ask(peer, reason);
    }

    pub(crate) fn disconnect_if_silent(&mut self, peer: u32, reason: &str) {
        disconnect::ask_if_silent(peer, reason);
    }

    pub(crate) fn health(&mut self, peer: u32, by: i32, reason: &str) {
        health::adjust(peer, by, reason);
    }

    pub(crate) fn ping(&mut self, peers: Vec<u32>) {
        ping::ask(&peers);
    }

    pub(crate) fn ping_matching(&mut self, _: &View, tests: Vec<Test>) {
        ping::matching(&tests);
    }

    pub(crate) fn dial(&mut self, address: u32, reason: &str) {
        dial::ask(address, reason);
    }

    pub(crate) fn probe(&mut self, address: u32) {
        dial::probe(address);
    }

    pub(crate) fn protect(&mut self, peer: u32, for_s: u32, reason: &str) {
        protect::ask(peer, for_s, reason);
    }

    pub(crate) fn ban(&mut self, peer: u32, for_s: u32, reason: &str) {
        ban::ask(peer, for_s, reason);
    }

    pub(crate) fn forget_broadcasts(&mut self, older_than_s: u32) {
        forget::broadcasts(older_than_s);
    }

    pub(crate) fn forget_addresses(&mut self, not_heard_for_s: u32) {
        forget::addresses(not_heard_for_s);
    }

    pub(crate) fn again_in(&mut self, ticks: u32) {
        cadence::again_in(ticks);
    }

    pub(crate) fn store(&mut self, saved: Saved) {
        memory::store(&memory::Saved { version: saved.version, bytes: saved.bytes });
    }

    pub(crate) fn log(&mut self, level: Level, text: &str) {
        let level = match level {
            Level::Error => log::Level::Error,
            Level::Warn => log::Level::Warn,
            Level::Info => log::Level::Info,
            Level::Debug => log::Level::Debug,
        };
        log::write(level, text);
    }

    pub(crate) fn metric_add(&mut self, name: &str, by: u32) {
        metrics::add(name, by);
    }

    pub(crate) fn metric_set(&mut self, name: &str, value: f64) {
        metrics::set(name, value);
    }
}
