//! An inert WASI, for guests in languages that need it. It opens no files, never waits and reveals nothing.
//!
//! Standard output becomes log lines. The clock is the tick's time, random numbers come from the tick's seed, and polls
//! are ready immediately. Everything else is empty or refused: results are built from the types of the functions.

use wasmtime::Result;
use wasmtime::component::types::{ComponentItem, Type};
use wasmtime::component::{Component, Linker, Resource, ResourceType, Val};

use groundskeeper_sdk::host::Level;

use super::run::{CALL, Cx, StoreState, charge};

pub(super) fn is_wasi(import: &str) -> bool {
    import.starts_with("wasi:")
}

/// The type behind every handle.
struct EmptyResource;

/// Links all of WASI that `component` imports.
pub(super) fn link(linker: &mut Linker<StoreState>, component: &Component) -> Result<()> {
    let engine = component.engine().clone();
    for (name, item) in component.component_type().imports(&engine) {
        let (true, ComponentItem::ComponentInstance(interface)) = (is_wasi(name), item.ty) else { continue };
        let short: String = name.split('@').next().unwrap_or(name).to_owned();
        let mut instance = linker.instance(name)?;
        for (function, item) in interface.exports(&engine) {
            match item.ty {
                ComponentItem::Resource(_) => {
                    instance.resource(function, ResourceType::host::<EmptyResource>(), |mut cx, _| {
                        let inside = cx.data_mut();
                        inside.handles = inside.handles.saturating_sub(1);
                        Ok(())
                    })?;
                }
                ComponentItem::ComponentFunc(_) => {
                    let call = format!("{short}.{function}");
                    instance.func_new(function, move |mut cx, ty, given, results| {
                        charge(&mut cx, 4 * CALL)?;
                        let types: Vec<Type> = ty.results().collect();
                        answer(&mut cx, &call, given, &types, results)?;
                        // A borrowed handle that is not dropped would break the rules of components.
                        given.iter().try_for_each(|value| give_back(&mut cx, value))
                    })?;
                }
                _ => {}
            }
        }
    }
    Ok(())
}

/// Drops every handle in an argument of a call.
fn give_back(cx: &mut Cx<'_>, value: &Val) -> Result<()> {
    match value {
        Val::Resource(handle) => handle.resource_drop(&mut *cx),
        Val::List(values) | Val::Tuple(values) => values.iter().try_for_each(|value| give_back(cx, value)),
        Val::Record(fields) => fields.iter().try_for_each(|(_, value)| give_back(cx, value)),
        Val::Variant(_, Some(value)) | Val::Option(Some(value)) => give_back(cx, value),
        Val::Result(Ok(Some(value)) | Err(Some(value))) => give_back(cx, value),
        _ => Ok(()),
    }
}

/// Bytes that an output stream accepts in one write.
const WRITE_BYTES: u64 = 4096;
/// Maximum random bytes from one call.
const CHANCE_BYTES: u64 = 64 << 10;

fn answer(cx: &mut Cx<'_>, call: &str, given: &[Val], types: &[Type], results: &mut [Val]) -> Result<()> {
    let special = match (call, given) {
        ("wasi:cli/exit.exit" | "wasi:cli/exit.exit-with-code", _) => {
            return Err(wasmtime::Error::msg("it called exit"));
        }
        ("wasi:clocks/wall-clock.now", _) => Some(Val::Record(vec![
            ("seconds".into(), Val::U64(cx.data().unix_s.into())),
            ("nanoseconds".into(), Val::U32(0)),
        ])),
        ("wasi:clocks/monotonic-clock.now", _) => {
            Some(Val::U64(u64::from(cx.data().unix_s).saturating_mul(1_000_000_000)))
        }
        ("wasi:clocks/monotonic-clock.resolution", _) => Some(Val::U64(1_000_000_000)),
        (
            "wasi:random/random.get-random-bytes" | "wasi:random/insecure.get-insecure-random-bytes",
            [Val::U64(count)],
        ) => {
            let count = (*count).min(CHANCE_BYTES);
            charge(cx, count)?;
            let chance = &mut cx.data_mut().chance;
            Some(Val::List((0..count).map(|_| Val::U8(chance.bits() as u8)).collect()))
        }
        ("wasi:random/random.get-random-u64" | "wasi:random/insecure.get-insecure-random-u64", _) => {
            Some(Val::U64(cx.data_mut().chance.bits()))
        }
        ("wasi:random/insecure-seed.insecure-seed", _) => {
            let chance = &mut cx.data_mut().chance;
            Some(Val::Tuple(vec![Val::U64(chance.bits()), Val::U64(chance.bits())]))
        }
        ("wasi:io/poll.poll", [Val::List(all)]) => {
            Some(Val::List((0..all.len() as u32).map(Val::U32).collect()))
        }
        ("wasi:io/poll.[method]pollable.ready", _) => Some(Val::Bool(true)),
        ("wasi:io/streams.[method]output-stream.check-write", _) => {
            Some(Val::Result(Ok(Some(Box::new(Val::U64(WRITE_BYTES))))))
        }
        (
            "wasi:io/streams.[method]output-stream.write"
            | "wasi:io/streams.[method]output-stream.blocking-write-and-flush",
            [_, Val::List(bytes)],
        ) => {
            charge(cx, bytes.len() as u64)?;
            let bytes: Vec<u8> = bytes
                .iter()
                .filter_map(|byte| if let Val::U8(byte) = byte { Some(*byte) } else { None })
                .collect();
            let text = String::from_utf8_lossy(&bytes);
            for line in text.lines().filter(|line| !line.trim().is_empty()) {
                cx.data_mut().log.write(Level::Info, line);
            }
            Some(Val::Result(Ok(None)))
        }
        _ => None,
    };
    match (special, results) {
        (Some(value), [result]) => *result = value,
        (_, results) => {
            let mut left = VALUES;
            for (result, ty) in results.iter_mut().zip(types) {
                *result = nothing(cx, ty, &mut left)?;
            }
        }
    }
    Ok(())
}

/// Maximum values in one built result: a guest may declare its own interface under a WASI name, with results of a
/// million values.
const VALUES: u32 = 1_000;
/// Maximum handles that a store holds at one time.
const HANDLES: u32 = 10_000;

/// Builds the emptiest value of a type; an error or refusal if the type has one. Builds at most `left` values.
fn nothing(cx: &mut Cx<'_>, ty: &Type, left: &mut u32) -> Result<Val> {
    *left = left.checked_sub(1).ok_or_else(|| {
        wasmtime::Error::msg(format!("a result of more than {VALUES} values, which no released WASI returns"))
    })?;
    Ok(match ty {
        Type::Bool => Val::Bool(false),
        Type::S8 => Val::S8(0),
        Type::U8 => Val::U8(0),
        Type::S16 => Val::S16(0),
        Type::U16 => Val::U16(0),
        Type::S32 => Val::S32(0),
        Type::U32 => Val::U32(0),
        Type::S64 => Val::S64(0),
        Type::U64 => Val::U64(0),
        Type::Float32 => Val::Float32(0.0),
        Type::Float64 => Val::Float64(0.0),
        Type::Char => Val::Char(' '),
        Type::String => Val::String(String::new()),
        Type::List(_) => Val::List(Vec::new()),
        Type::Option(_) => Val::Option(None),
        Type::Flags(_) => Val::Flags(Vec::new()),
        Type::Record(record) => {
            let mut fields = Vec::new();
            for field in record.fields() {
                fields.push((field.name.to_owned(), nothing(cx, &field.ty, left)?));
            }
            Val::Record(fields)
        }
        Type::Tuple(tuple) => {
            let types: Vec<Type> = tuple.types().collect();
            Val::Tuple(types.iter().map(|ty| nothing(cx, ty, left)).collect::<Result<_>>()?)
        }
        Type::Enum(names) => {
            let names: Vec<&str> = names.names().collect();
            let refusal = ["unsupported", "not-supported", "access", "access-denied"];
            let refusal = refusal.iter().find(|name| names.contains(name));
            Val::Enum(refusal.copied().or(names.first().copied()).unwrap_or_default().to_owned())
        }
        Type::Variant(variant) => {
            // Prefer a case without a value, such as `closed` of a stream.
            let cases: Vec<(String, Option<Type>)> =
                variant.cases().map(|case| (case.name.to_owned(), case.ty)).collect();
            match cases.iter().rev().find(|(_, ty)| ty.is_none()).or(cases.first()) {
                Some((name, None)) => Val::Variant(name.clone(), None),
                Some((name, Some(ty))) => Val::Variant(name.clone(), Some(Box::new(nothing(cx, ty, left)?))),
                None => return Err(wasmtime::Error::msg("a variant without cases")),
            }
        }
        Type::Result(result) => match (result.ok(), result.err()) {
            (None, _) => Val::Result(Ok(None)),
            (_, Some(refusal)) => Val::Result(Err(Some(Box::new(nothing(cx, &refusal, left)?)))),
            (_, None) => Val::Result(Err(None)),
        },
        Type::Own(_) => {
            let handles = &mut cx.data_mut().handles;
            if *handles == HANDLES {
                return Err(wasmtime::Error::msg(format!(
                    "it holds {HANDLES} handles and asks for one more"
                )));
            }
            *handles += 1;
            Val::Resource(Resource::<EmptyResource>::new_own(0).try_into_resource_any(&mut *cx)?)
        }
        _ => return Err(wasmtime::Error::msg("a type that no released WASI returns")),
    })
}
