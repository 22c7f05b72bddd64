-- What `RedisJobs` does with jobs, each call one step that nobody else sees half of. Its schema is that of jobs_sqlite.py:
-- what changes there in meaning changes here.
--
-- KEYS[1]: before every key. ARGV: what to do, the time ('': Redis's own), and what each function below reads, in order.
--
-- last                      the number of the newest job
-- ids                       hash: id -> number, 15 digits, so that text sorts as numbers do
-- job:<number>              hash: the fields of `Job`, and owner, key, digest
-- orders:<number>           hash: place -> line of work, newline, order; goes when the outcome comes
-- tries:, deaths:<number>   hashes: place -> how often, where it is not never
-- outcomes:<number>         sorted by number of change: place:state:outcome
-- of:<state or all>:<owner> sorted by number: the owner's jobs
-- keys:<owner>              hash: idempotency key -> number and digest
-- line:<line>:<owner>       sorted by priority and age: items that wait, as number:place; owners:<line> and lines name them all
-- later                     sorted by when they are due: items that are tried again
-- suspects:<line>           the same, of those whose worker died
-- leases, holders, held:<worker>  until when an item is leased, by whom, and what each worker holds
-- claim:<worker>            what its last claim gave it: asked again, because the reply was lost, it is told the same
-- expiring, gone            ended jobs, sorted by time
-- aside                     hash: owner -> bytes of files that lie aside for the owner's jobs
-- unattended                the same, of those with something to be seen to, sorted by when that is due
-- counts                    hash: jobs that wait and run, items without an outcome

local PREFIX = KEYS[1]
local at = 2

local function text()
    at = at + 1
    return ARGV[at]
end

local function number()
    return tonumber(text())
end

local now = tonumber(ARGV[2])
if not now then
    local time = redis.call('TIME')
    now = tonumber(time[1]) + tonumber(time[2]) / 1e6
end

local ended = {}  -- task, state and seconds of the jobs that this call ends

local function call(command, key, ...)
    return redis.call(command, PREFIX .. key, ...)
end

local function moment(seconds)
    return string.format('%.6f', seconds)
end

local function member(job, place)
    return string.format('%s:%06d', job, place)
end

local function parts(name)
    local job, place = string.match(name, '^(%d+):(%d+)$')
    return job, tostring(tonumber(place))
end

local function line_of(value)
    return string.match(value, '^([^\n]*)\n')
end

-- Not where Redis threw keys out, as it should never: then the others go on all the same.
local function is_there(job, place)
    return call('HEXISTS', 'orders:' .. job, place) == 1 and call('HEXISTS', 'job:' .. job, 'id') == 1
end

local function enqueue(name, line, owner, priority)
    call('ZADD', 'line:' .. line .. ':' .. owner, -priority, name)
    call('SADD', 'owners:' .. line, owner)
    call('SADD', 'lines', line)
end

local function leave_line(name, line, owner)
    local key = 'line:' .. line .. ':' .. owner
    call('ZREM', key, name)
    if call('EXISTS', key) == 0 then call('SREM', 'owners:' .. line, owner) end
end

local function unlease(name, worker)
    call('ZREM', 'leases', name)
    call('HDEL', 'holders', name)
    call('SREM', 'held:' .. worker, name)
end

-- An item is nowhere any more but in `orders`.
local function pick_up(job, place, value)
    local name, line = member(job, place), line_of(value)
    local worker = call('HGET', 'holders', name)
    if worker then return unlease(name, worker) end
    leave_line(name, line, call('HGET', 'job:' .. job, 'owner'))
    call('ZREM', 'later', name)
    call('ZREM', 'suspects:' .. line, name)
end

-- An item that nobody holds waits again, from that time on.
local function wait(name, due)
    local job, place = parts(name)
    if not is_there(job, place) then return end
    local line = line_of(call('HGET', 'orders:' .. job, place))
    if call('HEXISTS', 'deaths:' .. job, place) == 1 then
        call('ZADD', 'suspects:' .. line, due, name)
    elseif due > now then
        call('ZADD', 'later', due, name)
    else
        local about = call('HMGET', 'job:' .. job, 'owner', 'priority')
        enqueue(name, line, about[1], tonumber(about[2]))
    end
end

local function enter(job, state)
    local about = call('HMGET', 'job:' .. job, 'owner', 'state')
    if about[2] then
        call('ZREM', 'of:' .. about[2] .. ':' .. about[1], job)
        call('HINCRBY', 'counts', about[2], -1)
    end
    call('HSET', 'job:' .. job, 'state', state)
    call('ZADD', 'of:' .. state .. ':' .. about[1], tonumber(job), job)
    if state == 'waiting' or state == 'running' then call('HINCRBY', 'counts', state, 1) end
end

local function finish(job, state, kept)
    local key = 'job:' .. job
    local left = call('HGETALL', 'orders:' .. job)
    for index = 1, #left, 2 do pick_up(job, left[index], left[index + 1]) end
    call('HINCRBY', 'counts', 'items', -#left / 2)
    for _, name in ipairs({'orders:', 'tries:', 'deaths:'}) do call('DEL', name .. job) end
    enter(job, state)
    call('HINCRBY', key, 'number', 1)
    call('HSET', key, 'ended', moment(now), 'expires', moment(now + kept))
    call('ZADD', 'expiring', now + kept, job)
    local about = call('HMGET', key, 'attend_at', 'task', 'created')
    if about[1] then call('ZADD', 'unattended', now, job) end
    for _, part in ipairs({about[2], state, moment(now - tonumber(about[3]))}) do ended[#ended + 1] = part end
end

-- The first outcome of an item counts; one without an order has an outcome, or its job has ended.
local function keep(job, place, state, outcome, kept)
    local key = 'job:' .. job
    if not is_there(job, place) then return end
    pick_up(job, place, call('HGET', 'orders:' .. job, place))
    call('HDEL', 'orders:' .. job, place)
    call('HINCRBY', 'counts', 'items', -1)
    call('HINCRBY', key, state, 1)
    call('ZADD', 'outcomes:' .. job, call('HINCRBY', key, 'number', 1), place .. ':' .. state .. ':' .. outcome)
    local sums = call('HMGET', key, 'total', 'done', 'failed', 'dead')
    if tonumber(sums[1]) == sums[2] + sums[3] + sums[4] then
        finish(job, tonumber(sums[2]) > 0 and 'done' or 'failed', kept)
    end
end

-- What becomes of items whose worker is gone: how many deaths are too many, how long each pause is, how long an ended
-- job is kept, and what is said of one that is given up, before and after its trace.
local function grave()
    local most, pauses = number(), {}
    for index = 1, most - 1 do pauses[index] = number() end
    return {most = most, pauses = pauses, kept = number(), before = text(), after = text()}
end

local function died(name, worker, how)
    local job, place = parts(name)
    unlease(name, worker)
    if not is_there(job, place) then return end
    local deaths = call('HINCRBY', 'deaths:' .. job, place, 1)
    if deaths < how.most then return wait(name, now + how.pauses[deaths]) end
    local _, order = string.match(call('HGET', 'orders:' .. job, place), '^([^\n]*)\n(.*)$')
    local known, fields = pcall(cjson.decode, order)
    local trace = known and type(fields) == 'table' and type(fields.trace) == 'string' and fields.trace or ''
    keep(job, place, 'dead', how.before .. cjson.encode(trace) .. how.after, how.kept)
end

-- What leases that ran out left behind, and what is due again, waits from now on.
local function collect(how)
    for _, name in ipairs(call('ZRANGEBYSCORE', 'leases', '-inf', now)) do
        local worker = call('HGET', 'holders', name)
        if worker then died(name, worker, how) end  -- else its job ended just now, by the one before
    end
    for _, name in ipairs(call('ZRANGEBYSCORE', 'later', '-inf', now)) do
        call('ZREM', 'later', name)
        wait(name, now)
    end
end

local function job_of(job)
    return call('HGETALL', 'job:' .. job)
end

local function found(id, owner)
    local job = call('HGET', 'ids', id)
    local about = job and call('HMGET', 'job:' .. job, 'owner', 'expires')
    if not job or about[1] ~= owner then return nil, 'unknown' end
    if about[2] and tonumber(about[2]) <= now then return nil, 'gone' end
    return job
end

local function held_by(worker)
    local names = call('SMEMBERS', 'held:' .. worker)
    table.sort(names)
    return names
end

-- The next items, an equal part of each owner who waits, whom chance puts in order.
local function in_line(line, most)
    local owners, lines, taken = call('SMEMBERS', 'owners:' .. line), {}, {}
    table.sort(owners)
    for index = #owners, 2, -1 do
        local other = math.random(index)
        owners[index], owners[other] = owners[other], owners[index]
    end
    for index = 1, math.min(most, #owners) do
        lines[index] = call('ZRANGE', 'line:' .. line .. ':' .. owners[index], 0, most - 1)
    end
    for turn = 1, most do
        for index, names in ipairs(lines) do
            if names[turn] and #taken < most then
                if is_there(parts(names[turn])) then
                    taken[#taken + 1] = names[turn]
                else
                    leave_line(names[turn], line, owners[index])
                end
            end
        end
    end
    return taken
end

local function lease(name, worker, till)
    local job, place = parts(name)
    pick_up(job, place, call('HGET', 'orders:' .. job, place))
    call('ZADD', 'leases', till, name)
    call('HSET', 'holders', name, worker)
    call('SADD', 'held:' .. worker, name)
    if call('HGET', 'job:' .. job, 'state') == 'waiting' then
        enter(job, 'running')
        call('HSET', 'job:' .. job, 'started', moment(now), 'began', call('HINCRBY', 'job:' .. job, 'number', 1))
    end
end

local function items(names)
    local told = {}
    for _, name in ipairs(names) do
        local job, place = parts(name)
        local _, order = string.match(call('HGET', 'orders:' .. job, place), '^([^\n]*)\n(.*)$')
        for _, part in ipairs({
            call('HGET', 'job:' .. job, 'id'), place, order,
            call('HGET', 'tries:' .. job, place) or '0', call('HGET', 'deaths:' .. job, place) or '0',
        }) do told[#told + 1] = part end
    end
    return told
end

-- What is due later than it can be was put off before the clock was set back.
local function bring_forward(key, longest, seconds)
    for _, name in ipairs(call('ZRANGEBYSCORE', key, '(' .. string.format('%.17g', now + longest), '+inf')) do
        call('ZADD', key, now + seconds, name)
    end
end

local act = {}

-- id, owner, task, priority, webhook, inputs, key, digest, seconds that it is kept, how many of the owner's may be open, bytes that an
-- owner's jobs may have aside, outcomes (how many, then place and outcome of each), orders (how many, then line and order of each)
function act.submit()
    local id, owner, task, priority = text(), text(), text(), number()
    local webhook, inputs, key, digest, kept, most, quota = text(), number(), text(), text(), number(), number(), number()
    local known = call('HGET', 'ids', id)
    if known then return job_of(known) end  -- asked again, because the first reply was lost
    local before = key ~= '' and call('HGET', 'keys:' .. owner, key)
    if before then
        local job, same = string.match(before, '^(%d+) (.*)$')
        if same ~= digest then return nil, 'conflict' end
        return job_of(job)
    end
    local open = call('ZCARD', 'of:waiting:' .. owner) + call('ZCARD', 'of:running:' .. owner)
    if open >= most then return nil, 'too many' end
    if inputs > 0 and tonumber(call('HGET', 'aside', owner) or 0) + inputs > quota then return nil, 'full' end
    local job = string.format('%015d', call('INCR', 'last'))
    call('HSET', 'ids', id, job)
    if key ~= '' then call('HSET', 'keys:' .. owner, key, job .. ' ' .. digest) end
    call('HSET', 'job:' .. job, 'id', id, 'owner', owner, 'task', task, 'priority', priority, 'done', 0, 'failed', 0,
        'dead', 0, 'number', 1, 'began', 0, 'created', moment(now), 'inputs', inputs, 'key', key)
    if webhook ~= '' then call('HSET', 'job:' .. job, 'webhook', webhook) end
    if inputs > 0 then call('HINCRBY', 'aside', owner, inputs) end
    if webhook ~= '' or inputs > 0 then call('HSET', 'job:' .. job, 'attend_at', 0) end
    call('ZADD', 'of:all:' .. owner, tonumber(job), job)
    enter(job, 'waiting')
    local wrong = {}
    for index = 1, number() do wrong[index] = {text(), text()} end
    local total = number()
    call('HSET', 'job:' .. job, 'total', total)
    call('HINCRBY', 'counts', 'items', total)
    for place = 0, total - 1 do
        local line = text()
        call('HSET', 'orders:' .. job, place, line .. '\n' .. text())
        enqueue(member(job, place), line, owner, priority)
    end
    for _, one in ipairs(wrong) do keep(job, one[1], 'failed', one[2], kept) end
    return job_of(job)
end

-- id, owner
function act.find()
    local job, wrong = found(text(), text())
    if not job then return nil, wrong end
    return job_of(job)
end

-- owner, state or 'all', the id before which, how many at most
function act.listed()
    local owner, state, before, most = text(), text(), text(), number()
    local upto = '+inf'
    if before ~= '' then
        local job = call('HGET', 'ids', before)
        if not job or call('HGET', 'job:' .. job, 'owner') ~= owner then return {} end
        upto = '(' .. tonumber(job)
    end
    local told, skipped = {}, 0
    while #told < most do
        local some = call('ZREVRANGEBYSCORE', 'of:' .. state .. ':' .. owner, upto, '-inf', 'LIMIT', skipped, most)
        if #some == 0 then break end
        for _, job in ipairs(some) do
            local expires = call('HGET', 'job:' .. job, 'expires')
            if #told < most and call('EXISTS', 'job:' .. job) == 1 and (not expires or tonumber(expires) > now) then told[#told + 1] = job_of(job) end
        end
        skipped = skipped + #some
    end
    return told
end

-- id, after which number, how many at most, of how many bytes together
function act.outcomes()
    local job, after, most, bytes = call('HGET', 'ids', text()), text(), number(), number()
    local told = {}
    while job and #told < 2 * most and bytes >= 0 do
        local some = call('ZRANGEBYSCORE', 'outcomes:' .. job, '(' .. after, '+inf', 'WITHSCORES', 'LIMIT', 0, 16)
        if #some == 0 then break end
        for index = 1, #some, 2 do
            if #told < 2 * most and bytes >= 0 then
                told[#told + 1], told[#told + 2] = some[index], some[index + 1]
                bytes = bytes - #some[index]
            end
        end
        after = some[#some]
    end
    return told
end

-- id, owner, seconds that it is kept
function act.cancel()
    local job, wrong = found(text(), text())
    if not job then return nil, wrong end
    if not call('HGET', 'job:' .. job, 'ended') then finish(job, 'cancelled', number()) end
    return job_of(job)
end

-- worker, line, how many at most, seconds, how long no item rests, '1' when it is idle, a name for this claim, chance, and
-- the grave
function act.claim()
    local worker, line, most, seconds, rest = text(), text(), number(), number(), number()
    local idle, name, chance, how = text(), text(), number(), grave()
    local said = call('GET', 'claim:' .. worker)
    if said and string.sub(said, 1, #name) == name then
        local still = {}
        for one in string.gmatch(string.sub(said, #name + 1), '%S+') do
            if call('SISMEMBER', 'held:' .. worker, one) == 1 then still[#still + 1] = one end
        end
        return items(still)
    end
    bring_forward('leases', seconds, seconds)
    bring_forward('later', rest, 0)
    bring_forward('suspects:' .. line, rest, 0)
    collect(how)
    math.randomseed(chance)
    local names = call('ZRANGEBYSCORE', 'suspects:' .. line, '-inf', now, 'LIMIT', 0, 1)
    if names[1] and not is_there(parts(names[1])) then
        call('ZREM', 'suspects:' .. line, names[1])
        names = {}
    end
    if #names == 0 then
        names = in_line(line, most)
    elseif idle ~= '1' then
        names = {}
    end
    for _, one in ipairs(names) do lease(one, worker, now + seconds) end
    if #names > 0 then call('SET', 'claim:' .. worker, name .. ' ' .. table.concat(names, ' '), 'PX', 86400000) end
    return items(names)
end

-- worker, seconds
function act.renew()
    local worker, till, told = text(), now + number(), {}
    for _, name in ipairs(held_by(worker)) do
        local job, place = parts(name)
        call('ZREM', 'leases', name)  -- first, for what only takes away is allowed while memory is full
        call('ZADD', 'leases', till, name)
        local id = call('HGET', 'job:' .. job, 'id')
        if id then told[#told + 1], told[#told + 2] = id, place end
    end
    return told
end

-- worker, seconds that an ended job is kept, how many, and of each: id, place, state, outcome, seconds until it is tried again
function act.settle()
    local worker, kept = text(), number()
    for _ = 1, number() do
        local id, place, state, outcome, after = text(), text(), text(), text(), number()
        local job = call('HGET', 'ids', id)
        if job and state ~= '' then
            keep(job, place, state, outcome, kept)
        elseif job and call('HGET', 'holders', member(job, place)) == worker then
            unlease(member(job, place), worker)
            call('HINCRBY', 'tries:' .. job, place, 1)
            wait(member(job, place), now + after)
        end
    end
    return {}
end

-- worker
function act.give_back()
    local worker = text()
    for _, name in ipairs(held_by(worker)) do
        unlease(name, worker)
        wait(name, now)
    end
    return {}
end

-- worker, and the grave
function act.lost()
    local worker = text()
    local how = grave()
    for _, name in ipairs(held_by(worker)) do
        if call('HGET', 'holders', name) then died(name, worker, how) end
    end
    return {}
end

local function attend_again(job, at)
    call('ZADD', 'unattended', at, job)
    call('HSET', 'job:' .. job, 'attend_at', moment(at))
end

-- The files of a job are gone.
local function emptied(job)
    local about = call('HMGET', 'job:' .. job, 'owner', 'inputs')
    if call('HINCRBY', 'aside', about[1], -(tonumber(about[2]) or 0)) <= 0 then call('HDEL', 'aside', about[1]) end
    call('HSET', 'job:' .. job, 'inputs', 0)
end

-- how many at most, for how many seconds nobody else is given them, how long no call waits, how many owners to leave out,
-- and these
function act.unattended()
    local most, seconds, longest, without, told, skipped = number(), number(), number(), {}, {}, 0
    bring_forward('unattended', longest, 0)
    for _ = 1, number() do without[text()] = true end
    while #told < most do
        local some = call('ZRANGEBYSCORE', 'unattended', '-inf', now, 'LIMIT', skipped, most)
        if #some == 0 then break end
        for _, job in ipairs(some) do
            local owner = call('HGET', 'job:' .. job, 'owner')
            if not owner then
                call('ZREM', 'unattended', job)
            elseif #told < most and not without[owner] then
                told[#told + 1] = job_of(job)
                attend_again(job, now + seconds)
            else
                skipped = skipped + 1
            end
        end
    end
    return told
end

-- id, whether its webhook was called, why in vain, in how many seconds again, whether its files are gone
function act.attended()
    local job, called, fault, after = call('HGET', 'ids', text()), number(), text(), number()
    if not job then return {} end
    if number() == 1 then emptied(job) end
    if after then
        attend_again(job, now + after)
    else
        call('ZREM', 'unattended', job)
        call('HDEL', 'job:' .. job, 'attend_at')
    end
    if called == 1 then
        call('HINCRBY', 'job:' .. job, 'calls', 1)
        call('HSET', 'job:' .. job, 'fault', fault)
    end
    return {}
end

-- Of a job nothing is kept but that it was there.
local function forget(job, about, remembered)
    emptied(job)
    call('DEL', 'outcomes:' .. job)
    call('DEL', 'job:' .. job)
    call('HSET', 'job:' .. job, 'id', about[1], 'owner', about[2], 'expires', about[3])
    for _, list in ipairs({'of:all:', 'of:' .. about[4] .. ':'}) do call('ZREM', list .. about[2], job) end
    for _, list in ipairs({'expiring', 'unattended'}) do call('ZREM', list, job) end
    if about[5] ~= '' then call('HDEL', 'keys:' .. about[2], about[5]) end
    call('ZADD', 'gone', tonumber(about[3]) + remembered, job)
end

-- how many at most, seconds for which it is known that they were there
function act.forget_old()
    local most, remembered, told = number(), number(), {}
    for _, job in ipairs(call('ZRANGEBYSCORE', 'expiring', '-inf', now, 'LIMIT', 0, most)) do
        local about = call('HMGET', 'job:' .. job, 'id', 'owner', 'expires', 'state', 'key')
        if about[1] then
            forget(job, about, remembered)
            told[#told + 1] = about[1]
        else
            call('ZREM', 'expiring', job)
        end
    end
    for _, job in ipairs(call('ZRANGEBYSCORE', 'gone', '-inf', now, 'LIMIT', 0, most)) do
        call('HDEL', 'ids', call('HGET', 'job:' .. job, 'id') or '')
        call('DEL', 'job:' .. job)
        call('ZREM', 'gone', job)
    end
    return told
end

-- how many, and the ids
function act.unknown()
    local told = {}
    for _ = 1, number() do
        local id = text()
        if not call('HGET', 'ids', id) then told[#told + 1] = id end
    end
    return told
end

function act.counts()
    local told = call('HMGET', 'counts', 'waiting', 'running', 'items')
    for index = 1, 3 do told[index] = told[index] or '0' end
    return told
end

-- the grave
function act.due()
    collect(grave())
    local told = {}
    for _, line in ipairs(call('SMEMBERS', 'lines')) do
        local fresh = 0
        for _, owner in ipairs(call('SMEMBERS', 'owners:' .. line)) do
            fresh = fresh + call('ZCARD', 'line:' .. line .. ':' .. owner)
        end
        for _, part in ipairs({line, fresh, call('ZCOUNT', 'suspects:' .. line, '-inf', now)}) do
            told[#told + 1] = tostring(part)
        end
    end
    return told
end

local told, wrong = act[ARGV[1]]()
return {wrong or '', ended, told or {}}
