//! Requests in one another's company, on a backend that does as it is told.

mod costs;
mod fixture;
mod flights;
mod hits;
