-- Who may do what: a role for workers, one for the app's edge function, and the states of consents under way.

set local lock_timeout = '5s';

-- A user is at cTrader's consent page. Each row is taken once, by the callback that it was made for.
create table bridge.oauth_states (
    state_hash text primary key,
    user_id text not null check (char_length(user_id) between 1 and 320),
    expires_at timestamptz not null,
    created_at timestamptz not null default clock_timestamp()
);

comment on table bridge.oauth_states is
    'consents under way: a state works once and until expires_at; whoever takes it deletes it';
comment on column bridge.oauth_states.state_hash is 'lower-case hex SHA-256 of the state''s random part';

create index oauth_states_by_end on bridge.oauth_states (expires_at);
create index oauth_states_by_user on bridge.oauth_states (user_id, created_at);

revoke all on bridge.oauth_states from public;

-- Who forgets a grant forgets what it was renewed to as well. A pair that is stored plain is found by its text,
-- and belongs to whoever has that text. A sealed one cannot be found, nor read without the key; it goes with its age.
-- The app may not read tokens, so this is done with the owner's rights.
create function bridge.credentials_forget() returns trigger
language plpgsql security definer
set search_path = ''
as $$
begin
    if old.refresh_token not like 'enc:v1:%'
        and not exists (select from bridge.credentials where refresh_token = old.refresh_token)
    then
        delete from bridge.token_refreshes where refresh_token = old.refresh_token;
    end if;
    return null;
end
$$;

create trigger credentials_forget
    after delete on bridge.credentials
    for each row execute function bridge.credentials_forget();

-- What each role needs, and no more. It may be run again: after roles were made by hand, or by a migration
-- that has replaced it, so that it says everything there is to say.
create function bridge.grant_roles() returns void
language plpgsql
set search_path = ''
as $$
declare
    grantee text;
begin
    for grantee in
        select rolname from pg_catalog.pg_roles where rolname in ('bridge_worker', 'bridge_app')
    loop
        execute format('grant usage on schema bridge to %I', grantee);
        execute format('grant execute on function bridge.slot_of(text) to %I', grantee);
        if not has_schema_privilege(grantee, 'public', 'usage') then
            execute format('grant usage on schema public to %I', grantee);
        end if;
        -- Supabase's default privileges name its own roles only, but other projects' may name everybody.
        execute format('revoke all on public.ctrader_cache, public.ctrader_deals from %I', grantee);
    end loop;

    if exists (select from pg_catalog.pg_roles where rolname = 'bridge_worker') then
        grant select on bridge.schema_floor to bridge_worker;
        if to_regclass('bridge._sqlx_migrations') is not null then
            grant select on bridge._sqlx_migrations to bridge_worker;
        end if;
        grant select, update on bridge.slots to bridge_worker;
        grant select, insert, update, delete on bridge.workers, bridge.handovers to bridge_worker;
        grant usage on sequence bridge.workers_number_seq to bridge_worker;
        grant select, insert, update, delete on bridge.sessions to bridge_worker;
        grant select, insert, update on bridge.user_commands, bridge.history to bridge_worker;
        -- It renews tokens, and connects nobody.
        grant select, update (access_token, refresh_token, expires_at, updated_at)
            on bridge.credentials to bridge_worker;
        grant select, insert, update, delete on bridge.token_refreshes to bridge_worker;
        grant select, insert, update, delete on public.ctrader_cache to bridge_worker;
        grant select, insert, update on public.ctrader_deals to bridge_worker;
        -- Row-level security is for the app's users. What guards these rows from a worker is the fence. A policy
        -- that is there is left alone: to make one takes a lock that readers wait for.
        if not exists (select from pg_catalog.pg_policies where policyname = 'ctrader_cache_bridge_worker') then
            create policy ctrader_cache_bridge_worker on public.ctrader_cache
                to bridge_worker using (true) with check (true);
        end if;
        if not exists (select from pg_catalog.pg_policies where policyname = 'ctrader_deals_bridge_worker') then
            create policy ctrader_deals_bridge_worker on public.ctrader_deals
                to bridge_worker using (true) with check (true);
        end if;
    end if;

    if exists (select from pg_catalog.pg_roles where rolname = 'bridge_app') then
        -- Tokens go in, and never come out.
        grant select (user_id, account_id, is_live, is_primary, expires_at, updated_at), insert, update, delete
            on bridge.credentials to bridge_app;
        grant select, insert, delete on bridge.oauth_states to bridge_app;
        grant select on bridge.sessions, bridge.slots, bridge.workers to bridge_app;
        grant select on public.ctrader_cache to bridge_app;
        if not exists (select from pg_catalog.pg_policies where policyname = 'ctrader_cache_bridge_app') then
            create policy ctrader_cache_bridge_app on public.ctrader_cache
                for select to bridge_app using (true);
        end if;
    end if;
end
$$;

revoke all on function bridge.credentials_forget(), bridge.grant_roles() from public;

do $$
declare
    role_name text;
begin
    for role_name in select rolname from pg_roles where rolname in ('anon', 'authenticated', 'service_role') loop
        execute format('revoke all on bridge.oauth_states from %I', role_name);
        execute format('revoke all on function bridge.credentials_forget(), bridge.grant_roles() from %I', role_name);
    end loop;

    -- Roles belong to the whole cluster: another database's bridge may have made them, this very moment.
    foreach role_name in array array['bridge_worker', 'bridge_app'] loop
        begin
            if not exists (select from pg_roles where rolname = role_name) then
                execute format('create role %I nologin', role_name);
            end if;
        exception
            when duplicate_object or unique_violation then
                null;
            when insufficient_privilege then
                raise notice 'role % was not made: % may not make roles', role_name, current_user
                    using hint = format('Make it as an administrator (create role %I nologin), '
                        'and then run, as the owner of the tables: select bridge.grant_roles()', role_name);
        end;
    end loop;
    perform bridge.grant_roles();
end
$$;
