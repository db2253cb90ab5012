use super::super::sample;
use super::*;

#[test]
fn dump() {
    std::fs::write("/tmp/show-report.html", report(&sample::report())).unwrap();
    std::fs::write("/tmp/show-sweep.html", sweep(&sample::sweep())).unwrap();
}
