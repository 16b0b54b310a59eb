//! The end-to-end suite: one program, so that it is linked once.

mod suite {
    mod archive;
    mod archive_faults;
    mod archive_follow;
    mod archive_serve;
    mod bytes;
    mod cdc;
    mod crash;
    mod decoding;
    mod divergence;
    mod equality;
    mod faults;
    mod follow_metrics;
    mod garbage;
    mod harness;
    mod init;
    mod pitr;
    mod recover;
    mod refusals;
    mod s3;
}
