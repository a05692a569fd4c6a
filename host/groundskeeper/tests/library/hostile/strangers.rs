//! Files that are no phase of this contract: refused while they are loaded, before anything of them runs.

use groundskeeper_sdk::contract::Interface;

use super::*;

const PACKAGE: &str = "groundskeeper:phase@0.1.0";

/// A phase that writes a log line, made for this version of the contract.
fn logging(version: &str) -> Vec<u8> {
    Wat {
        tail: r#"(data (i32.const 1024) "here")"#.into(),
        ..Wat::run("(call $log.write (i32.const 2) (i32.const 1024) (i32.const 4)) (i32.const 8)")
    }
    .importing(&[("log", "write", "(param i32 i32 i32)")])
    .component_for(version)
}

#[test]
fn a_guest_of_a_later_patch_of_the_contract_runs_if_it_uses_what_is_known() {
    let wasm = Wasm::by_hand(None).unwrap();
    let code = load(&wasm, &logging("0.1.9"));
    assert_eq!(code.imports(), [Interface::Log]);
    let guest = Guest::new(&wasm, code, setup()).unwrap();
    guest.check().unwrap();
    let done = guest.run(&job(&few()));
    assert!(matches!(done.ended, RunOutcome::Planned(_)), "{:?}", done.ended);
    assert_eq!(done.log[0].text, "here");
}

#[test]
fn a_function_that_a_later_patch_added_is_refused_by_name() {
    let mut wat = Wat::run("(call $log.shout (i32.const 0) (i32.const 0)) (i32.const 8)").importing(&[(
        "log",
        "shout",
        "(param i32 i32)",
    )]);
    wat.wit = wat.wit.replacen("write: func(", "shout: func(text: string);\n    write: func(", 1);
    assert_eq!(
        refused(&wat.component_for("0.1.9")).to_string(),
        "it does not fit groundskeeper:phase@0.1.0: component imports instance `groundskeeper:phase/log@0.1.9`, but a \
         matching implementation was not found in the linker: instance export `shout` has the wrong type: function \
         implementation is missing; rebuild it with an SDK of this contract"
    );
}

#[test]
fn an_interface_that_a_later_patch_added_is_refused_with_the_way_out() {
    let mut wat =
        Wat::run("(call $chat.say (i32.const 0)) (i32.const 8)").importing(&[("chat", "say", "(param i32)")]);
    wat.wit =
        wat.wit.replacen("interface log {", "interface chat { say: func(n: u32); }\ninterface log {", 1);
    wat.wit = wat.wit.replacen("import log;", "import log;\n    import chat;", 1);
    assert_eq!(
        refused(&wat.component_for("0.1.9")).to_string(),
        "it imports groundskeeper:phase/chat@0.1.9, which this host does not have: it speaks groundskeeper:phase@0.1.0; \
         rebuild it with an older SDK, or update this host"
    );
}

#[test]
fn a_guest_of_another_contract_is_refused() {
    for version in ["0.2.0", "1.0.0", "0.0.9"] {
        // Without an import, what it exports says so.
        for component in [logging(version), Wat::default().component_for(version)] {
            assert_eq!(
                refused(&component).to_string(),
                format!(
                    "it was built for groundskeeper:phase@{version}, and this host speaks {PACKAGE}; rebuild it with an \
                     SDK of this contract, or update this host"
                )
            );
        }
    }
}

#[test]
fn imports_of_strangers_are_refused() {
    let nothing = "a phase reads and asks through the contract alone";
    let own = "import interfaces of the contract, not functions of your own";
    for (import, name, way_out) in [
        (
            r#"(import "evil:files/open@1.0.0" (instance (export "open" (func))))"#,
            "evil:files/open@1.0.0",
            nothing,
        ),
        (
            r#"(import "groundskeeper:phaser/log@0.1.0" (instance))"#,
            "groundskeeper:phaser/log@0.1.0",
            nothing,
        ),
        (r#"(import "run" (func))"#, "run", own),
        (r#"(import "module" (core module))"#, "module", own),
        (r#"(import "t" (type (sub resource)))"#, "t", own),
    ] {
        let error = refused(&wat::parse(&format!("(component {import})")));
        assert_eq!(
            error.to_string(),
            format!("it imports {name}, which this host does not have: it speaks {PACKAGE}; {way_out}")
        );
    }
}

#[test]
fn an_import_with_a_name_of_90_kilobytes_is_not_repeated_whole() {
    let name = "a".repeat(90_000);
    let error = refused(&wat::parse(&format!("(component (import \"{name}\" (func)))"))).to_string();
    assert!(error.len() < 1_200, "{} bytes", error.len());
    let url = "url=<\\1b[2J\\e2\\80\\aegnihton>";
    let error = refused(&wat::parse(&format!("(component (import \"{url}\" (func)))"))).to_string();
    assert!(!error.contains(['\u{1b}', '\u{202e}']), "{error:?}");
}

/// Exports of the right names and of other types.
const LIFECYCLE: &str = r#"
    (core module $m (func (export "f")) (func (export "g") (param i32 i32)) (memory (export "memory") 1)
      (func (export "r") (param i32 i32 i32 i32) (result i32) (unreachable)))
    (core instance $i (instantiate $m))
    (func $nothing (canon lift (core func $i "f")))
    (func $text (param "settings" string) (canon lift (core func $i "g") (memory $i "memory") (realloc (func $i "r"))))
    (instance $lifecycle (export "describe" (func $nothing)) (export "check" (func $text)) (export "run" (func $nothing)))
    (export "groundskeeper:phase/lifecycle@0.1.0" (instance $lifecycle))"#;

#[test]
fn interfaces_of_the_contract_with_other_types_are_refused() {
    for import in [
        r#"(import "groundskeeper:phase/log@0.1.0" (instance (export "write" (func (param "text" string)))))"#,
        r#"(import "groundskeeper:phase/peers@0.1.0" (instance (export "columns" (func (result string)))))"#,
        r#"(import "groundskeeper:phase/peers@0.1.0" (func))"#,
    ] {
        let error = refused(&wat::parse(&format!("(component {import} {LIFECYCLE})"))).to_string();
        assert!(error.starts_with(&format!("it does not fit {PACKAGE}: component imports ")), "{error}");
    }
}

#[test]
fn components_that_are_no_phase_say_what_is_missing() {
    let lifecycle = "groundskeeper:phase/lifecycle@0.1.0";
    let text = "it is a component, but no phase: it does not export";
    assert_eq!(refused(&wat::parse("(component)")).to_string(), format!("{text} {lifecycle}"));
    let empty = format!("(component (instance $empty) (export \"{lifecycle}\" (instance $empty)))");
    assert_eq!(refused(&wat::parse(&empty)).to_string(), format!("{text} {lifecycle}.describe"));
    // Its interface is there, as something else.
    let module = format!("(component (core module $m) (export \"{lifecycle}\" (core module $m)))");
    assert_eq!(refused(&wat::parse(&module)).to_string(), format!("{text} {lifecycle}.describe"));
}

#[test]
fn exports_of_other_types_are_refused_before_they_are_called() {
    let exporting = |describe: &str| {
        let lifecycle = LIFECYCLE.replacen("(func $nothing))", &format!("(func {describe}))"), 1);
        wat::parse(&format!("(component {lifecycle})"))
    };
    let words = unfit(&exporting("$nothing"), setup());
    assert_eq!(
        words,
        "its `describe`: failed to convert function to given type: type mismatch with results: expected 1-tuple, found 0-tuple"
    );
    let words = unfit(&exporting("$text"), setup());
    assert_eq!(
        words,
        "its `describe`: failed to convert function to given type: type mismatch with parameters: expected 0-tuple, found 1-tuple"
    );
}

#[test]
fn sixty_thousand_functions_are_refused_before_they_are_compiled() {
    let core = Wat { tail: "(func)".repeat(60_000), ..Wat::default() };
    let expected = "it has 60004 functions; this host takes 40000";
    assert_eq!(refused(&core.core()).to_string(), expected);
    assert_eq!(refused(&core.component()).to_string(), expected);
}

#[test]
fn functions_count_wherever_they_are_in_a_component() {
    // In many small modules.
    let module = format!("(core module {})", "(func)".repeat(1_000));
    let error = refused(&wat::parse(&format!("(component {})", module.repeat(50))));
    assert!(error.to_string().ends_with("functions; this host takes 40000"), "{error}");
    // In components within components.
    let inner = format!("(component {module})");
    let error = refused(&wat::parse(&format!("(component {})", inner.repeat(50))));
    assert!(error.to_string().ends_with("functions; this host takes 40000"), "{error}");
    // The border between host and guest is made of functions that are compiled too.
    let lower = "(core func (canon lower (func $f)))".repeat(60_000);
    let lowered = format!(
        "(component (import \"groundskeeper:phase/forget@0.1.0\" (instance $i \
         (export \"broadcasts\" (func (param \"older-than-s\" u32))))) (alias export $i \"broadcasts\" (func $f)) {lower})"
    );
    let error = refused(&wat::parse(&lowered));
    assert!(error.to_string().ends_with("functions; this host takes 40000"), "{error}");
}

#[test]
fn a_function_of_very_many_locals_is_refused_before_it_is_compiled() {
    let many = |count: u32| {
        let types = "i32 i64 f32 f64 ".repeat(count as usize / 4);
        Wat { tail: format!("(func (local {types}))"), ..Wat::default() }.core()
    };
    assert_eq!(
        refused(&many(40_000)).to_string(),
        "it has 40000 locals in one function; this host takes 20000"
    );
    // A group of four billion is five bytes in the file.
    let small = many(4);
    let needle = [4, 1, 0x7f, 1, 0x7e, 1, 0x7d, 1, 0x7c, 0x0b];
    let at = small.windows(needle.len()).position(|window| window == needle).expect("its locals");
    let mut billions = small[..at].to_vec();
    billions.extend([1, 0xff, 0xff, 0xff, 0xff, 0x0f, 0x7f]);
    billions.extend(&small[at + 7..]);
    let error = refused(&billions).to_string();
    assert!(error.contains("locals"), "{error}");
}

#[test]
fn a_file_that_ends_too_early_is_refused_wherever_it_ends() {
    let wasm = Wasm::by_hand(None).unwrap();
    for whole in [Wat::default().component(), Wat::default().core()] {
        for end in 0..whole.len() {
            let taken = wasm.load(&whole[..end]).is_ok();
            // Names and the like come last; without them it is whole and the same.
            assert!(
                !taken || is_custom(&whole, end),
                "the first {end} of {} bytes were taken for a phase",
                whole.len()
            );
        }
    }
    assert_eq!(refused(&[]), LoadError::Empty);
    let begun = "it is the beginning of a WebAssembly file; was it written whole?";
    assert_eq!(refused(b"\0as").to_string(), begun);
}

/// Whether only custom sections follow, the first of them at this place.
fn is_custom(component: &[u8], place: usize) -> bool {
    let lengths = sections(component).into_iter().map(|(id, content)| (id, section(id, content).len()));
    let mut at = HEADER;
    let starts: Vec<(usize, u8)> = lengths.map(|(id, length)| ((at, id), at += length).0).collect();
    let mut rest = starts.iter().skip_while(|(start, _)| *start < place).peekable();
    rest.peek().is_some_and(|(start, _)| *start == place) && rest.all(|(_, id)| *id == 0)
}

#[test]
fn files_of_other_kinds_are_told_apart() {
    for (bytes, kind) in [
        (
            &b"\x7fELF\x02\x01\x01"[..],
            "an ELF file, as shared libraries are; say kind = \"native\" in the manifest",
        ),
        (b"(component)", "WebAssembly text; assemble it first"),
        (b"\0asm\x09\0\0\0", "WebAssembly of a version this host does not know"),
        (b"#!/bin/sh\n", "no WebAssembly at all"),
        (b"\0", "the beginning of a WebAssembly file; was it written whole?"),
    ] {
        assert_eq!(refused(bytes), LoadError::NotWasm(kind));
    }
}

#[test]
fn a_file_of_50_megabytes_is_refused_whatever_is_in_it() {
    let phase = Wat::default().component();
    // All of it a custom section that nobody reads.
    let mut content = vec![1, b'x'];
    content.resize(50 << 20, 0);
    let padded = [&phase[..], &section(0, &content)].concat();
    assert_eq!(
        refused(&padded).to_string(),
        format!("it has {} bytes; this host takes {}", padded.len(), 32 << 20)
    );
}

#[test]
fn components_nested_ten_thousand_deep_are_refused_without_a_deep_stack() {
    let mut nested = wat::parse("(component)");
    for _ in 0..10_000 {
        nested = [&nested[..HEADER], &section(COMPONENT, &nested)].concat();
    }
    assert_eq!(refused(&nested).to_string(), "it has 33 components within components; this host takes 32");
}

#[test]
fn component_types_within_component_types_are_refused_without_a_deep_stack() {
    const TYPES: u8 = 7;
    // A component type with one declaration, a type, which is ...
    let mut content = vec![1];
    content.extend([0x41, 1, 1].repeat(1_000_000));
    content.extend([0x41, 0]);
    let nested = [&wat::parse("(component)")[..], &section(TYPES, &content)].concat();
    assert_eq!(
        refused(&nested).to_string(),
        "it has 33 component types within component types; this host takes 32"
    );
}

#[test]
fn a_core_module_whose_metadata_leads_in_a_circle_is_refused() {
    // One interface of another version: that package needs the first one's types, and the first one's world needs it.
    // Whoever follows packages that depend on each other comes to the end of the stack.
    let mut core = Wat::default().core();
    let name = b"groundskeeper:phase/protect@0.1.0";
    let at = core.windows(name.len()).position(|window| window == name).expect("the world imports it");
    core[at + name.len() - 5] = b'1';
    assert_eq!(
        refused(&core).to_string(),
        "it cannot be made a component: its metadata names \"groundskeeper:phase/protect@1.1.0\" beside \
         groundskeeper:phase@0.1.0; make a component of it with wasm-tools"
    );
    // Each of its sections is looked at: a linker leaves one for each object that names a world.
    let twice = |core: Vec<u8>| wat::embed(core, groundskeeper_sdk::contract::WIT, "phase");
    load(&Wasm::by_hand(None).unwrap(), &twice(Wat::default().core()));
    assert!(refused(&twice(core)).to_string().contains("names \"groundskeeper:phase/protect@1.1.0\" beside"));
}

#[test]
fn a_function_of_very_many_nested_blocks_needs_no_deep_stack() {
    let nested = |count: usize| {
        let blocks = "block ".repeat(count) + &"end ".repeat(count);
        Wat::run(&format!("{blocks} i32.const 8"))
    };
    let done = run(&nested(250));
    assert!(matches!(done.ended, RunOutcome::Planned(_)), "{:?}", done.ended);
    // More are for a child process: they may take minutes.
    let error = refused(&nested(3_000).component());
    assert!(matches!(error, LoadError::NeedsChild { what: "nested blocks in one function", .. }), "{error}");
}

#[test]
fn types_nested_very_deep_or_very_wide_are_refused() {
    let deep: String = (1..5_000).map(|n| format!("(type $t{n} (list $t{}))", n - 1)).collect();
    // In a phase: anything else is refused before its types are looked at.
    let phase = Wat::default().component();
    let beside = |text: &str| [&phase, &wat::parse(&format!("(component (component {text}))"))[8..]].concat();
    let error = refused(&beside(&format!("(type $t0 (list u8)) {deep}"))).to_string();
    assert!(error.contains("type nesting is too deep"), "{error}");
    // Each twice the size of the one before.
    let wide: String = (1..40).map(|n| format!("(type $t{n} (tuple $t{} $t{}))", n - 1, n - 1)).collect();
    let error = refused(&beside(&format!("(type $t0 (tuple u8 u8)) {wide}"))).to_string();
    assert!(error.contains("effective type size exceeds the limit"), "{error}");
}

#[test]
fn features_that_a_replay_could_not_repeat_or_that_nobody_asked_for_are_off() {
    for (head, words) in [
        ("(memory $second 1)", "memories in one module"),
        (
            "(func (param v128) (drop (i32x4.relaxed_trunc_f32x4_s (local.get 0))))",
            "relaxed SIMD support is not enabled",
        ),
        ("(tag $t)", "exceptions proposal not enabled"),
        ("(type $s (struct))", "gc types are disabled"),
        ("(global $g (import \"env\" \"g\") (mut i32))", "it cannot be made a component"),
    ] {
        let core = wat::parse(&Wat { head: head.into(), ..Wat::default() }.text());
        let component = wat::embed(core, groundskeeper_sdk::contract::WIT, "phase");
        let error = refused(&component).to_string();
        assert!(error.contains(words), "{error}");
    }
}
