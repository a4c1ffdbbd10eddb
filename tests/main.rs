//! The integration suite, one module a subject.

mod testdata;
