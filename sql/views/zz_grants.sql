GRANT USAGE ON SCHEMA reporting TO landed_service, landed_operator, landed_reporter;
GRANT SELECT ON ALL TABLES IN SCHEMA reporting TO landed_service, landed_operator, landed_reporter;
