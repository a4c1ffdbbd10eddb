//! Pictures and pages as a process: `report`, `filters`, and what the measuring commands write beside their tables.

use std::fs;

use super::{alexnet, str};

const PAPER: &str = "samples/shapes-paper.safetensors";

/// What a comparison draws, its page, and the same page from its JSON.
#[test]
fn a_records_page_is_that_of_its_run() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (drawn, page, record) = (path("drawn"), path("page.html"), path("compare.json"));
    let run = ["compare", "--checkpoint", PAPER, "--duration", "0.02", "--device", "cpu", "-j", "2", "-b", "3"];
    let outputs = ["--json", "--pictures", str(&drawn), "--report", str(&page)];
    fs::write(&record, alexnet(run.iter().chain(&outputs)).expect(0)).unwrap();
    let mut names: Vec<String> =
        fs::read_dir(&drawn).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names.join(" "), "layouts.png layouts.svg timeline-b3.png timeline-b3.svg");
    let svg = fs::read_to_string(drawn.join("timeline-b3.svg")).unwrap();
    assert!(svg.starts_with("<svg") && svg.contains("batch 3") && svg.contains("tower 1"), "{svg}");
    let again = path("again.html");
    let run = alexnet(["report", str(&record), "-o", str(&again), "--pictures", str(&path("redrawn"))]);
    assert!(run.stderr.contains("again.html"), "{}", run.stderr);
    run.expect(0);
    let page = fs::read_to_string(&page).unwrap();
    assert!(page == fs::read_to_string(&again).unwrap(), "the record holds everything that its page tells");
    assert!(page.contains("two towers, half of the CPU's threads each") && page.contains("seed 0"));
    for name in names {
        assert!(fs::read(drawn.join(&name)).unwrap() == fs::read(path("redrawn").join(&name)).unwrap(), "{name}");
    }
}

#[test]
fn report_refuses_what_is_no_record() {
    let folder = tempfile::tempdir().unwrap();
    let page = folder.path().join("page.html");
    alexnet(["report", "none.json", "-o", str(&page)]).refuse(2, &["none.json"]);
    alexnet(["report", "tests/data/print/half.txt", "-o", str(&page)]).refuse(2, &["half.txt", "--json"]);
    alexnet(["report", "-o", str(&page)]).refuse(2, &["RECORD.json"]);
    alexnet(["report", "none.json", "-o", "page.pdf"]).refuse(2, &["page.pdf", ".html"]);
    assert!(!page.exists());
    // Before anything is measured.
    let nowhere = folder.path().join("none").join("page.html");
    alexnet(["compare", "--report", str(&nowhere)]).refuse(6, &[str(&nowhere)]);
    let file = folder.path().join("file");
    fs::write(&file, "kept").unwrap();
    alexnet(["compare", "--pictures", str(&file)]).refuse(6, &[str(&file)]);
}

#[test]
fn filters_are_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let draw = |name: &str, arguments: &[&str]| {
        let file = folder.path().join(name);
        alexnet(["filters", "-o", str(&file)].iter().chain(arguments)).expect(0);
        fs::read(file).unwrap()
    };
    let size = |png: &[u8]| {
        let image = image::load_from_memory(png).unwrap();
        (image.width(), image.height())
    };
    // Both sample networks have 16 filters; the paper's has them in two towers.
    let demo = draw("demo.png", &[]);
    let towers = draw("towers.png", &["--towers"]);
    assert!(size(&demo).1 < size(&towers).1, "{:?} {:?}", size(&demo), size(&towers));
    let paper = ["--checkpoint", PAPER];
    assert!(draw("paper.png", &paper) == draw("again.png", &[&paper[..], &["--towers"]].concat()));
    assert_eq!(size(&draw("full.png", &["--checkpoint", "seed:0", "-m", "paper"])), (8 * 193, 8 * (6 * 12 + 4)));
    let svg = String::from_utf8(draw("demo.svg", &[])).unwrap();
    assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n") && svg.matches("<path").count() > 900, "{svg}");

    alexnet(["filters", "-o", "filters.jpg"]).refuse(2, &["filters.jpg", ".png or .svg"]);
    alexnet(["filters", "-m", "caffe", "-o", str(&folder.path().join("a.png"))]).refuse(2, &["caffe", "--checkpoint"]);
    let nowhere = folder.path().join("none").join("a.png");
    alexnet(["filters", "-o", str(&nowhere)]).refuse(6, &[str(&nowhere)]);
}
