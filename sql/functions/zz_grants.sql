-- Who may call what. Functions are open to everyone until told otherwise, so all are closed first.
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA landed FROM PUBLIC;

GRANT USAGE ON SCHEMA landed TO landed_service, landed_operator, landed_producer;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA landed TO landed_service;
GRANT EXECUTE ON FUNCTION landed.send TO landed_producer;
GRANT EXECUTE ON FUNCTION
    landed.cancel, landed.hold, landed.release, landed.replay, landed.resolve,
    landed.suppress, landed.unsuppress, landed.price,
    landed.drain_provider, landed.restore_provider, landed.set_route_capability,
    landed.explain, landed.timeline, landed.rendered
TO landed_operator;
