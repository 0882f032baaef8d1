//! Stacks as text: what is read, what is printed, and what errors say.

use overlapped_drivers::text::{Bottom, Parameter, Secret, Size, Text, TextError, TextErrorKind};
use overlapped_iomgr::{Major, MajorSet, Stack, Status};

fn error(text: &str) -> TextError {
    match text.parse::<Text>() {
        Err(error) => error,
        Ok(text) => text.build().map(drop).expect_err("it is wrong"),
    }
}

#[test]
fn it_is_printed_as_it_would_be_written() {
    for (text, printed) in [
        ("null", "null"),
        ("  xor  |null ", "xor | null"),
        ("xor()|null", "xor | null"),
        ("xor( key = 0x55 )", "xor(key=0x55)"),
        ("file( a b.img )", "file(a b.img)"),
        (r#"file("a,b(c)|d\"e\\f")"#, r#"file("a,b(c)|d\"e\\f")"#),
        ("file(path=/x=y)", "file(path=/x=y)"),
        (r#"file("x=y")"#, r#"file("x=y")"#),
        (r#"file("")"#, r#"file("")"#),
        ("file(ä ö)", "file(ä ö)"),
    ] {
        let read: Text = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(read.to_string(), printed);
        assert_eq!(printed.parse::<Text>().unwrap().to_string(), printed, "and again");
    }
}

#[test]
fn errors_point_at_their_place() {
    for (text, at, says) in [
        ("", 0..0, "the name of a filter or a bottom"),
        ("xor |", 5..5, "the name of a filter or a bottom"),
        ("xor | | null", 6..7, "the name of a filter or a bottom"),
        ("xor null", 4..5, "'|' or the end"),
        ("xor(key=1", 9..9, "',' or ')'"),
        ("xor(key=)", 8..9, "a value"),
        ("xor(,)", 4..5, "a value"),
        (r#"file("abc"#, 9..9, "the closing quote"),
        (r#"file("a\nb")"#, 7..8, "behind a backslash"),
        ("nul", 0..3, "no filter or bottom 'nul'"),
        ("xor(key=300) | null", 8..11, "a number from 0 to 255"),
        ("xor(key=+1) | null", 8..10, "a number from 0 to 255"),
        ("xor(key=1, key=2)", 11..14, "given twice"),
        ("xor(kee=1)", 4..7, "'xor' has no parameter 'kee' (it has: key)"),
        ("null(x)", 5..6, "'null' has no parameters"),
        ("file", 0..4, "'file' needs the parameter 'path'"),
        ("null | null", 0..4, "'null' is a bottom"),
        ("memory(size=9X)", 12..14, "a number of bytes"),
        ("memory(size=99999999999T)", 12..24, "a number of bytes"),
    ] {
        let error = error(text);
        assert!(error.to_string().contains(says), "{text}: {error}");
        assert_eq!(error.at(), at, "{text}: {error}");
        assert!(error.to_string().contains(&format!("\n  {text}")), "{error}");
    }
    let error = error("xor |\n  nul");
    assert!(matches!(error.kind(), TextErrorKind::UnknownName { name, .. } if name == "nul"));
    assert!(error.to_string().ends_with("\n    nul\n    ^^^"), "{error}");
}

#[test]
fn built_from_the_top() {
    let built =
        "xor(key=1) | xor(key=2) | file(disk.img)".parse::<Text>().unwrap().build().unwrap();
    assert_eq!(built.filters.len(), 2);
    assert!(matches!(built.bottom, Some(Bottom::File(path)) if path.to_str() == Some("disk.img")));
    assert!("xor".parse::<Text>().unwrap().build().unwrap().bottom.is_none());
}

/// It works, for it is the user's to say; and is warned of by these names.
#[test]
fn an_order_that_is_wrong_is_named() {
    let wrong = |text: &str| {
        let built = text.parse::<Text>().unwrap().build().unwrap();
        let Some(Bottom::Driver(bottom)) = built.bottom else { panic!("{text}") };
        let stack = Stack::new(built.filters, bottom).unwrap();
        stack.out_of_order().iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert!(wrong("trace | throttle(iops=9) | cache | memory").is_empty());
    assert_eq!(
        wrong("cache | throttle(iops=9) | trace | memory"),
        [
            "the filter 'throttle' (Throttle) stands below 'cache' (Cache), and belongs above it",
            "the filter 'trace' (Trace) stands below 'throttle' (Throttle), and belongs above it",
        ]
    );
}

#[test]
fn values() {
    assert_eq!(Size::read("64K"), Some(Size(65536)));
    assert_eq!(Size::read("1g"), Some(Size(1 << 30)));
    assert_eq!((Size::read("K"), Size::read(""), Size::read("-1")), (None, None, None));
    assert_eq!(f64::read("0.05"), Some(0.05));
    assert_eq!((f64::read("1.5"), f64::read("NaN")), (None, None));
    assert_eq!(Status::read("ENOSPC"), Some(Status::from_errno(28)));
    assert_eq!(Status::read("EWHAT"), None);
    let both = MajorSet::of(&[Major::Read, Major::Write]);
    assert_eq!(MajorSet::read("read+write"), Some(both));
    assert_eq!((MajorSet::read("all"), MajorSet::read("red")), (Some(MajorSet::ALL), None));
    assert_eq!(
        (bool::read("yes"), bool::read("0"), bool::read("2")),
        (Some(true), Some(false), None)
    );
    let path = std::env::temp_dir().join(format!("overlapped-text-{}", std::process::id()));
    std::fs::write(&path, "secret").unwrap();
    assert_eq!(Secret::read(&format!("@{}", path.display())), Some(Secret(b"secret".to_vec())));
    std::fs::remove_file(&path).unwrap();
    assert_eq!(Secret::read("@/no/such/file"), None);
    assert_eq!(format!("{:?}", Secret::read("plain")), "Some(Secret(..))");
}
