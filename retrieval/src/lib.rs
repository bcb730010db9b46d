//! The first stage: finds candidates by words, by dense and by learned-sparse vectors, and fuses what it finds.
