//! What every request passes: one span with method, namespace, id and duration; its failure logged once.
