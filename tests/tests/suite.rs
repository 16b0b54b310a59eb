//! The end-to-end suite: one program, so that it is linked once.

mod suite {
    mod harness;
    mod recover;
}
