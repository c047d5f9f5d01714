//! End to end: the real binary, real processes, real sockets; each test one behaviour a user can see.

mod cold_start;
