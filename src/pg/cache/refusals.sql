-- Ends all three: the rows that were not written, and why.
)
select i.ord, case
    when o.epoch is distinct from i.epoch then 'fenced'
    when c.epoch is null then 'missing'
    when c.epoch = i.epoch and c.seq >= i.seq then 'stale'
    -- Another epoch wrote the row, or somebody did while this statement ran: the look back does not
    -- see that.
    else 'fenced'
end
from input i
left join bridge.slots o on o.slot = i.slot
left join public.ctrader_cache c on c.user_key = i.user_key and c.account_id = i.account_id
where not exists (
    select from written w where w.user_key = i.user_key and w.account_id = i.account_id
)
