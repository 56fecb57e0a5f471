//! Jobs that arrive on SQS: a real `sendo serve` on a real ElasticMQ.

mod crashes;
mod credentials;
mod fifo;
mod ledger;
mod people;
mod poison;
mod served;
mod settle;
mod start;
mod way;
