//! Spans, decay and the random generator: the values that phases compute with.

use groundskeeper_sdk::prelude::*;
use groundskeeper_sdk::rng::Rng;
use proptest::prelude::*;

#[test]
fn spans_read_as_people_write_them() {
    let table = [
        ("0s", 0, "0s"),
        ("250ms", 250, "250ms"),
        ("30s", 30_000, "30s"),
        ("5m", 300_000, "5m"),
        ("1h", 3_600_000, "1h"),
        ("7d", 604_800_000, "7d"),
        ("1h30m", 5_400_000, "90m"),
        ("1m30s", 90_000, "90s"),
        ("1s500ms", 1_500, "1500ms"),
        ("1d1ms", 86_400_001, "1d1ms"),
        ("24h", 86_400_000, "1d"),
        ("007s", 7_000, "7s"),
    ];
    for (text, millis, printed) in table {
        let span: Span = text.parse().unwrap();
        assert_eq!((span.as_millis(), span.to_string()), (millis, printed.to_owned()), "{text}");
    }
}

#[test]
fn what_is_no_span_says_why_and_what_would_be() {
    let way_out = "; write it like \"250ms\", \"30s\", \"5m\", \"1h30m\" or \"7d\"";
    let table = [
        ("", "is empty"),
        ("30", "has a number without a unit"),
        ("s", "has a unit without a number"),
        ("30x", "has an unknown unit"),
        ("30S", "has an unknown unit"),
        ("1.5s", "has a fraction; use a smaller unit"),
        (".5s", "has a fraction; use a smaller unit"),
        ("-5s", "is negative"),
        ("5 s", "has a blank in it"),
        (" 5s", "has a character that is neither a digit nor a unit"),
        ("5s ", "has a character that is neither a digit nor a unit"),
        ("5µs", "has a number without a unit"),
        ("30m1h", "has its units out of order or twice"),
        ("1s1s", "has its units out of order or twice"),
        ("99999999999999999999s", "is too long to count in milliseconds"),
        ("18446744073709551615s", "is too long to count in milliseconds"),
    ];
    for (text, problem) in table {
        let error = text.parse::<Span>().unwrap_err().to_string();
        assert_eq!(error, format!("span {text:?}: {problem}{way_out}"));
    }
    let error = serde_json::from_str::<Span>("30").unwrap_err().to_string();
    assert!(error.contains("expected a span of time with its unit, like \"30s\""), "{error}");
}

#[test]
fn spans_saturate_below_unknown() {
    let vast = Span::days(u64::MAX);
    assert_eq!(vast.as_secs(), UNKNOWN - 1);
    assert_eq!(vast.as_secs_up(), UNKNOWN - 1);
    assert_eq!(vast.as_micros(), u64::MAX);
    assert_eq!((Span::millis(1_001).as_secs(), Span::millis(1_001).as_secs_up()), (1, 2));
    assert_eq!(Span::from(std::time::Duration::MAX).as_millis(), u64::MAX);
    assert_eq!(std::time::Duration::from(Span::millis(1_001)).as_millis(), 1_001);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn spans_read_back_what_they_print(small in 0u64..100_000, large in any::<u64>(), days in 0u64..10_000) {
        for span in [Span::millis(small), Span::millis(large), Span::secs(small), Span::days(days)] {
            prop_assert_eq!(span.to_string().parse::<Span>().unwrap(), span);
            let json = serde_json::to_string(&span).unwrap();
            prop_assert_eq!(serde_json::from_str::<Span>(&json).unwrap(), span);
        }
    }

    #[test]
    fn no_text_makes_a_span_panic(text in ".{0,12}|[0-9dhms. -]{0,12}") {
        if let Ok(span) = text.parse::<Span>() {
            prop_assert_eq!(span.to_string().parse::<Span>().unwrap(), span);
        }
    }

    #[test]
    fn decay_never_grows_with_age(value: u32, age in 0u64..1_000_000, more in 0u64..1_000, half in 1u64..100_000) {
        let at = |age| decay(value, Span::millis(age), Span::millis(half));
        prop_assert!(at(age + more) <= at(age));
    }

    /// Floating point may serve as the judge here, though not in a phase: it is off by far less than one step of
    /// 1/65536 of a half-life.
    #[test]
    fn decay_is_a_power_of_two(value: u32, age in 0u64..1_000_000, half in 1u64..100_000) {
        let exact = f64::from(value) * (-(age as f64) / half as f64).exp2();
        let got = f64::from(decay(value, Span::millis(age), Span::millis(half)));
        prop_assert!(got >= exact - 1.0 - exact * 1e-9 && got <= exact * 1.000_011 + 1.0, "{got} for {exact}");
    }

    #[test]
    fn below_is_below(seed: u64, n in 1u64..) {
        let mut rng = Rng::new(seed);
        prop_assert!((0..8).all(|_| rng.below(n) < n));
    }

    #[test]
    fn shuffle_keeps_everyone(seed: u64, n in 0usize..50) {
        let mut items: Vec<_> = (0..n).collect();
        Rng::new(seed).shuffle(&mut items);
        items.sort_unstable();
        prop_assert_eq!(items, (0..n).collect::<Vec<_>>());
    }
}

#[test]
fn decay_is_exact_where_it_can_be() {
    let (hour, half) = (Span::hours(1), Span::mins(30));
    assert_eq!(decay(1_000, Span::ZERO, hour), 1_000);
    assert_eq!(decay(1_000, hour, hour), 500);
    assert_eq!(decay(1_000, half, hour), 707);
    assert_eq!(decay(u32::MAX, Span::hours(31), hour), 1);
    assert_eq!(decay(u32::MAX, Span::hours(32), hour), 0);
    assert_eq!(decay(5, Span::ZERO, Span::ZERO), 5);
    assert_eq!(decay(5, Span::millis(1), Span::ZERO), 0);
    assert_eq!(decay(u32::MAX, Span::millis(u64::MAX), Span::millis(u64::MAX)), u32::MAX / 2);
}

/// Output of the authors' C code for seed 1234567.
#[test]
fn the_generator_is_splitmix64() {
    let mut rng = Rng::new(1_234_567);
    let got: Vec<_> = (0..5).map(|_| rng.bits()).collect();
    let known = [
        6_457_827_717_110_365_317,
        3_203_168_211_198_807_973,
        9_817_491_932_198_370_423,
        4_593_380_528_125_082_431,
        16_408_922_859_458_223_821,
    ];
    assert_eq!(got, known);
}

#[test]
fn chance_is_fair_enough() {
    let mut rng = Tick { seed: [7, 8], ..Tick::default() }.rng();
    let mut hits = [0u32; 5];
    (0..50_000).for_each(|_| hits[rng.below(5) as usize] += 1);
    assert!(hits.iter().all(|hits| hits.abs_diff(10_000) < 500), "{hits:?}");

    let mut hits = [0u32; 4];
    (0..60_000).for_each(|_| hits[rng.weighted([1, 0, 3, 2]).unwrap()] += 1);
    assert_eq!(hits[1], 0);
    assert!(hits[0].abs_diff(10_000) < 500 && hits[2].abs_diff(30_000) < 800, "{hits:?}");

    assert_eq!((rng.below(0), rng.below(1)), (0, 0));
    assert_eq!(rng.weighted([]), None);
    assert_eq!(rng.weighted([0, 0]), None);
}
