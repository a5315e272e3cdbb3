-- Every execution, appended once.

set local lock_timeout = '5s';

create table public.ctrader_deals (
    user_key text not null,
    account_id bigint not null,
    deal_id bigint not null,
    order_id bigint not null,
    position_id bigint not null,
    symbol text,
    symbol_id bigint not null,
    side text not null check (side in ('BUY', 'SELL')),
    status text not null,
    volume numeric not null,
    filled_volume numeric not null,
    price numeric,
    executed_at timestamptz not null,
    commission numeric,
    gross_profit numeric,
    swap numeric,
    closed_volume numeric,
    entry_price numeric,
    balance_after numeric,
    primary key (user_key, account_id, deal_id)
);

comment on table public.ctrader_deals is
    'cTrader executions; written by the bridge only, read by the user whose key it is';
comment on column public.ctrader_deals.gross_profit is
    'null for a deal that closed no volume, like the columns after it';

-- For a user's history by time, and for the bridge, which looks where a history ends.
create index ctrader_deals_by_time on public.ctrader_deals (user_key, account_id, executed_at desc);

alter table public.ctrader_deals replica identity default;

alter table public.ctrader_deals enable row level security;
revoke all on public.ctrader_deals from public;

do $$
declare
    api_role text;
begin
    for api_role in select rolname from pg_roles where rolname in ('anon', 'authenticated') loop
        execute format('revoke all on public.ctrader_deals from %I', api_role);
    end loop;

    if exists (select from pg_roles where rolname = 'authenticated') then
        grant select on public.ctrader_deals to authenticated;
        create policy ctrader_deals_own_rows on public.ctrader_deals
            for select to authenticated
            using (user_key = any (array(
                select encode(sha256(convert_to(claim.value, 'UTF8')), 'hex')
                from (
                    select nullif(current_setting('request.jwt.claims', true), '')::jsonb as claims
                ) as jwt
                cross join lateral (values (jwt.claims ->> 'sub'), (jwt.claims ->> 'email')) as claim (value)
                where claim.value <> ''
            )));
    end if;

    if exists (select from pg_roles where rolname = 'service_role') then
        -- Delete, so that the app can erase a user. Rows are written under the bridge's fence only.
        revoke all on public.ctrader_deals from service_role;
        grant select, delete on public.ctrader_deals to service_role;
    end if;

    if exists (select from pg_publication where pubname = 'supabase_realtime' and not puballtables)
        and not exists (
            select from pg_publication_tables
            where pubname = 'supabase_realtime' and schemaname = 'public' and tablename = 'ctrader_deals'
        )
    then
        alter publication supabase_realtime add table public.ctrader_deals;
    end if;
end
$$;
