-- Creates what Supabase gives a database before any migration runs: its roles, its default privileges, its
-- publication. The demo and the tests use it on a server without Supabase. It is safe to run twice.
do $$
declare
    role_name text;
begin
    foreach role_name in array array['anon', 'authenticated', 'service_role'] loop
        begin
            if not exists (select from pg_roles where rolname = role_name) then
                execute format('create role %I nologin noinherit', role_name);
            end if;
        exception when duplicate_object or unique_violation then
            null; -- another session created it just now: roles belong to the whole server
        end;
        execute format('grant usage on schema public to %I', role_name);
        execute format('alter default privileges in schema public grant all on tables to %I', role_name);
        execute format('alter default privileges in schema public grant all on functions to %I', role_name);
        execute format('alter default privileges in schema public grant all on sequences to %I', role_name);
    end loop;
    if not exists (select from pg_publication where pubname = 'supabase_realtime') then
        create publication supabase_realtime;
    end if;
end
$$;
