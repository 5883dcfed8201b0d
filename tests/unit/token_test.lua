-- lua/token.lua against DESIGN's "Token lifecycle": several workers on one store, a clock that stands still, an
-- authorization server that counts, and death at every step.
local here = debug.getinfo(1, "S").source:match("^@(.*)/") or "."
local fake = dofile(here .. "/fake.lua")
local token, config = require "token", require "config"

local function is(got, want)
  if got ~= want then error(("got %s, wanted %s"):format(tostring(got), tostring(want)), 2) end
end

-- A setting: world, store, server, and workers on demand. rotating: the grant is a refresh token that changes.
local function setting(options)
  options = options or {}
  local s = { world = fake.world(), life = options.life or 3600, requests = 0, inflight = 0, spent = {}, delay = options.delay or 20 }
  local time = s.world.time
  s.store = fake.store(s.world)
  s.version = s.store.put("credential", "c", { name = "c", type = "t" })
  s.issued = 0
  if options.rotating then
    s.live = "rt-0"
    s.store.put("state", "c", { credential = "c", rotation = 1 }, { refresh_token = "rt-0" })
  end

  -- The server: processes half-way through its delay, answers at the end. `mode` may spoil it.
  local function serve(grant, deadline)
    s.requests = s.requests + 1
    s.inflight = s.inflight + 1
    assert(s.inflight == 1, "two requests at once")
    if s.on_send then s.on_send() end
    local mode = s.mode and s.mode(s.requests) or {}
    time.sleep(s.delay / 2)
    local ok = true
    if options.rotating and not mode.unprocessed then
      if grant ~= s.live then ok = false else
        s.spent[grant] = true
        s.live = "rt-" .. s.requests
      end
    end
    local new = s.live
    if s.on_processed then s.on_processed() end
    if mode.silent then
      time.sleep(math.max(0, deadline - time.now()))
      s.inflight = s.inflight - 1
      return nil, "timeout"
    end
    time.sleep(s.delay / 2)
    s.inflight = s.inflight - 1
    if mode.frozen then time.sleep(mode.frozen) end   -- answered, but nobody looks
    if mode.code then return nil, mode.code, mode.detail end
    if mode.raises then error "policy bug" end
    if not ok then return nil, "invalid_grant" end
    s.issued = s.issued + 1
    return {
      secrets = { access_token = "at-" .. s.issued, refresh_token = options.rotating and new or nil },
      expires_at = mode.expires_at or not mode.no_expiry and time.wall() + s.life or nil,
    }
  end

  local pol = { name = "t", fields = {}, expired = {}, connect = options.connect and function() return {} end }
  function pol.refresh(cred, _, deadline)
    return serve(cred.state and cred.state.refresh_token, deadline)
  end
  local policy = {
    placed = function(_, text) return text end,
    record_view = function(_, rec, state) return { name = rec.name, state = state } end,
    refresh = function(p, cred, net, deadline)
      local out = table.pack(pcall(p.refresh, cred, net, deadline))
      if not out[1] then
        s.inflight = math.max(0, s.inflight)
        return nil, "policy_failed", out[2]
      end
      return table.unpack(out, 2, out.n)
    end,
  }

  local ids = 0
  function s.worker(name)
    local w = { name = name, dead = s.world.dead }
    w.tokens = token.new {
      store = s.store, time = time, policy = policy, keep = function(h) return h end, cache = config.cache,
      freeze = config.freeze, net_for = function() return {} end, owner = name,
      new_id = function() ids = ids + 1; return name .. "-" .. ids end,
      spawn = function(fn) return s.world.spawn(fn, name) end,
    }
    function w.opened()
      local rec = s.store.get("credential", "c")
      return { name = "c", rec = rec, version = rec.version, pol = pol }
    end
    w.open_one = w.opened()
    --- Asks in a task of its own; the answer appears in the table that is returned.
    function w.ask(wait)
      local r = {}
      s.world.spawn(function()
        local began = time.now()
        local view, code, info = w.tokens:fresh(w.open_one, time.now() + (wait or 15000))
        r.token, r.code, r.info, r.took, r.done = view and view.state.access_token, code, info, time.now() - began, true
        r.view = view
      end, name)
      return r
    end
    return w
  end
  function s.state() return s.store.get("state", "c") end
  function s.kill(w) s.inflight = 0; s.world.kill(w.name) end
  return s
end

local function one(options)
  local s = setting(options)
  s.w = s.worker "w1"
  return s
end

-- A refresh that ends.
local function refreshed(s, w)
  local r = (w or s.w).ask()
  s.world.run(1000)
  assert(r.token, "no token: " .. tostring(r.code))
  return r
end

local cases = {
  -- ---- freshness
  ["a token of an hour is fresh until five minutes before its end"] = function()
    is(token.fresh_until(1000, 3600), 1000 + 3300)
    is(token.fresh_until(1000, 600), 1000 + 300)
  end,
  ["a token under ten minutes is fresh for half its life"] = function()
    is(token.fresh_until(1000, 599), 1000 + 299.5)
    is(token.fresh_until(1000, 60), 1030)
    is(token.fresh_until(1000, 1), 1000.5)
  end,
  ["the table of what a state is worth"] = function()
    local state = { token_version = 7, obtained_at = 1000, expires_at = 4600, fresh_until = 4300 }
    is(token.standing(state, 7, 1000), "fresh")
    is(token.standing(state, 7, 4299), "fresh")
    is(token.standing(state, 7, 4300), "valid")
    is(token.standing(state, 7, 4599), "valid")
    is(token.standing(state, 7, 4600), "none")
    is(token.standing(state, 8, 1000), "none")            -- the credential was changed
    is(token.standing({}, 7, 1000), "none")
    is(token.standing(state, 7, 900), "valid")            -- the clock was set back
    state.dropped = true
    is(token.standing(state, 7, 1000), "none")
  end,
  ["a lease lives on its own boot until its time, and not from the future"] = function()
    local lease = { boot_id = "b", until_boot_ms = 20000 }
    is(token.lease_lives(lease, 1000, "b"), true)
    is(token.lease_lives(lease, 20000, "b"), false)
    is(token.lease_lives(lease, 1000, "other"), false)
    is(token.lease_lives({ boot_id = "b", until_boot_ms = 9e9 }, 1000, "b"), false)
    is(token.lease_lives(nil, 1000, "b"), false)
  end,

  -- ---- one refresh
  ["a first request waits for one refresh and gets its token"] = function()
    local s = one()
    local r = refreshed(s)
    is(r.token, "at-1")
    is(s.requests, 1)
    is(s.store.get("lease", "c"), nil)
  end,
  ["a fresh token costs no refresh and no wait"] = function()
    local s = one()
    refreshed(s)
    local r = refreshed(s)
    is(r.token, "at-1")
    is(r.took, 0)
    is(s.requests, 1)
  end,
  ["a hundred requests on one worker share one refresh"] = function()
    local s = one()
    local all = {}
    for i = 1, 100 do all[i] = s.w.ask() end
    s.world.run(1000)
    for i = 1, 100 do is(all[i].token, "at-1") end
    is(s.requests, 1)
  end,
  ["a hundred requests on four workers share one refresh"] = function()
    local s, all = setting(), {}
    local workers = {}
    for i = 1, 4 do workers[i] = s.worker("w" .. i) end
    for i = 1, 100 do all[i] = workers[i % 4 + 1].ask() end
    s.world.run(1000)
    for i = 1, 100 do is(all[i].token, "at-1") end
    is(s.requests, 1)
  end,
  ["the same where the second worker comes at any moment of the first one's refresh"] = function()
    for at = 0, 40 do
      local s = setting { rotating = at % 2 == 0 }
      local a, b = s.worker "a", s.worker "b"
      local ra = a.ask()
      s.world.run(at)
      local rb = b.ask()
      s.world.run(2000)
      is(ra.token, "at-1")
      is(rb.token, "at-1")
      is(s.requests, 1)
    end
  end,
  ["a valid token is served while the new one comes"] = function()
    local s = one()
    refreshed(s)
    s.world.run(3400 * 1000)
    local r = s.w.ask()
    s.world.run(0)
    is(r.token, "at-1")
    is(r.took, 0)
    s.world.run(1000)
    is(s.requests, 2)
    is(refreshed(s).token, "at-2")
  end,
  ["an expired token is not served"] = function()
    local s = one()
    refreshed(s)
    s.world.run(3600 * 1000)
    is(refreshed(s).token, "at-2")
  end,
  ["a caller that hangs up cancels nothing"] = function()
    local s = one()
    s.w.ask()
    s.world.run(0)
    for i = #s.world.tasks, 1, -1 do
      -- the caller's task is gone; the refresh is another's
      if i == 1 then table.remove(s.world.tasks, i) end
    end
    s.world.run(1000)
    is(s.issued, 1)
    is(s.state().secrets.access_token, "at-1")
  end,
  ["a credential that changed gets a token of its own at once, and the old one is not used"] = function()
    local s = one()
    refreshed(s)
    s.store.put("credential", "c", { name = "c", type = "t" })
    s.w.open_one = s.w.opened()
    is(refreshed(s).token, "at-2")
  end,
  ["apply does not get the refresh token"] = function()
    local s = one { rotating = true }
    local r = refreshed(s)
    is(r.view.state.refresh_token, nil)
    is(r.view.state.access_token, "at-1")
  end,
  ["a policy cannot change what other requests see"] = function()
    local s = one()
    local r = refreshed(s)
    is(pcall(function() r.view.state = {} end), false)
    is(pcall(function() r.view.state.access_token = "x" end), false)
    is(refreshed(s).view.state.access_token, "at-1")
  end,

  ["a person who asks need not wait for the next attempt; a grant that ended stays ended"] = function()
    local function asked(s)
      local r = s.w.ask()
      s.world.run(500)
      return r
    end
    local s = one()
    s.mode = function(n) return n == 1 and { code = "invalid_client" } or n == 2 and { code = "unavailable" } or nil end
    is(asked(s).code, "oauth_refresh_failed")
    is(asked(s).code, "oauth_refresh_failed")
    is(s.requests, 1)
    s.w.tokens:again(s.w.open_one)
    is(asked(s).code, "injection_unavailable")
    s.w.tokens:again(s.w.open_one)
    is(refreshed(s).token, "at-1")
    is(s.requests, 3)
    s = one { rotating = true, connect = true }
    s.mode = function() return { code = "invalid_grant" } end
    is(asked(s).code, "oauth_refresh_failed")
    s.w.tokens:again(s.w.open_one)
    is(asked(s).code, "oauth_refresh_failed")
    is(s.requests, 1)
  end,

  -- ---- absurd lifetimes
  ["what a type answers as expiry is bounded"] = function()
    for _, c in ipairs {
      { nil, 300 }, { 0, 300 }, { -5, 300 }, { 0 / 0, 300 }, { math.huge, 30 * 86400 }, { 1e18, 30 * 86400 }, { 60, 60 },
    } do
      local s = one()
      s.mode = function()
        return { expires_at = c[1] and s.world.time.wall() + c[1], no_expiry = c[1] == nil }
      end
      refreshed(s)
      local state = s.state()
      -- the fake server counts from when it answers, we from when we asked: at most a second apart
      assert(math.abs(state.expires_at - state.obtained_at - c[2]) <= 1, tostring(c[1]))
    end
  end,

  -- ---- failures
  ["invalid_grant, invalid_client and unauthorized_client are final"] = function()
    for _, code in ipairs { "invalid_grant", "invalid_client", "unauthorized_client" } do
      local s = one()
      s.mode = function() return { code = code } end
      local r = s.w.ask()
      s.world.run(1000)
      is(r.code, "oauth_refresh_failed")
      is(r.info.error, code)
      s.world.run(3600 * 1000)
      r = s.w.ask()
      s.world.run(1000)
      is(r.code, "oauth_refresh_failed")
      is(s.requests, 1)
      -- until the credential changes
      s.mode = nil
      s.store.put("credential", "c", { name = "c", type = "t" })
      s.w.open_one = s.w.opened()
      is(refreshed(s).token, "at-1")
    end
  end,
  ["a final error is final for every worker, and for those that come later"] = function()
    local s = one()
    s.mode = function() return { code = "invalid_client" } end
    s.w.ask()
    s.world.run(1000)
    local r = s.worker("w2").ask()
    s.world.run(1000)
    is(r.code, "oauth_refresh_failed")
    is(s.requests, 1)
  end,
  ["timeouts, 5xx and 429 back off, 1 s doubling to 60 s"] = function()
    local s = one()
    s.mode = function() return { code = "unavailable" } end
    local times = {}
    s.on_send = function() times[#times + 1] = s.world.time.now() end
    for _ = 1, 4000 do
      local r = s.w.ask(100)
      s.world.run(100)
      is(r.code, "injection_unavailable")
      assert(not r.info.retry_after or r.info.retry_after >= 1)
    end
    for i, want in ipairs { 1, 2, 4, 8, 16, 32, 60, 60 } do
      local gap = (times[i + 1] - times[i]) / 1000
      assert(gap >= want and gap < want + 0.5, ("gap %d is %s s, not %d"):format(i, gap, want))
    end
  end,
  ["Retry-After is obeyed"] = function()
    local s = one()
    s.mode = function(n) return n == 1 and { code = "unavailable", detail = { retry_after = 30 } } or nil end
    local r = s.w.ask()
    s.world.run(1000)
    is(r.code, "injection_unavailable")
    assert(r.info.retry_after >= 29 and r.info.retry_after <= 30)
    s.world.run(25 * 1000)
    s.w.ask()
    s.world.run(100)
    is(s.requests, 1)
    s.world.run(5 * 1000)
    is(refreshed(s).token, "at-1")
  end,
  ["the other worker backs off too"] = function()
    local s = setting()
    local a, b = s.worker "a", s.worker "b"
    s.mode = function() return { code = "unreachable" } end
    a.ask()
    s.world.run(500)
    local r = b.ask()
    s.world.run(100)
    is(r.code, "injection_unavailable")
    is(s.requests, 1)
  end,
  ["a back-off of another boot does not bind"] = function()
    local s = one()
    s.mode = function(n) return n == 1 and { code = "unavailable", detail = { retry_after = 3000 } } or nil end
    s.w.ask()
    s.world.run(1000)
    s.world.id = "boot-2"
    is(refreshed(s).token, "at-1")
  end,
  ["with a token still valid a failure is no error"] = function()
    local s = one()
    refreshed(s)
    s.mode = function() return { code = "unavailable" } end
    s.world.run(3400 * 1000)
    for _ = 1, 10 do
      local r = s.w.ask()
      s.world.run(5000)
      is(r.token, "at-1")
      is(r.took, 0)
    end
    assert(s.requests > 2)
  end,
  ["with a token still valid even a final error is none, yet"] = function()
    local s = one()
    refreshed(s)
    s.mode = function() return { code = "invalid_client" } end
    s.world.run(3400 * 1000)
    s.w.ask()
    s.world.run(1000)
    is(refreshed(s).token, "at-1")
    s.world.run(300 * 1000)
    local r = s.w.ask()
    s.world.run(1000)
    is(r.code, "oauth_refresh_failed")
  end,
  ["other refusals answer 502 and are tried again later"] = function()
    local s = one()
    s.mode = function(n) return n == 1 and { code = "invalid_scope" } or nil end
    local r = s.w.ask()
    s.world.run(900)
    is(r.code, "oauth_refresh_failed")
    s.world.run(1000)
    is(refreshed(s).token, "at-1")
  end,
  ["a refresh that breaks is policy_failed, and does not run again at once"] = function()
    local s = one()
    s.mode = function() return { raises = true } end
    local r = s.w.ask()
    s.world.run(500)
    is(r.code, "policy_failed")
    r = s.w.ask()
    s.world.run(100)
    is(r.code, "policy_failed")
    is(s.requests, 1)
  end,
  ["what a type says of its refresh is kept for the operator, and not in the agent's message"] = function()
    local s = one()
    s.mode = function() return { code = "the tenant is unknown\27[2J" } end
    local r = s.w.ask()
    s.world.run(500)
    is(r.code, "oauth_refresh_failed")
    is(s.state().last_error, "type_refused")
    is(s.state().error_why, "the tenant is unknown\\x1b[2J")
    assert(not r.info.message:find("tenant", 1, true), r.info.message)
    is(r.info.why, "the tenant is unknown\\x1b[2J")
    s.mode = function() return {} end
  end,
  ["a credential that is not connected says so"] = function()
    local s = one()
    s.mode = function() return { code = "not_connected" } end
    local r = s.w.ask()
    s.world.run(1000)
    is(r.code, "oauth_not_connected")
  end,
  ["a server that is slow past a caller's patience is waited for by the refresh alone"] = function()
    local s = one { delay = 8000 }
    local r = s.w.ask(3000)
    s.world.run(4000)
    is(r.code, "injection_unavailable")
    s.world.run(5000)
    is(refreshed(s).token, "at-1")
    is(s.requests, 1)
  end,
  ["a damaged state is refused by name and not overwritten"] = function()
    local s = one()
    s.store.damaged["state/c"] = true
    local r = s.w.ask()
    s.world.run(1000)
    is(r.code, "injection_failed")
    is(s.requests, 0)
  end,

  -- ---- the store in trouble
  ["a full disk is met before anything is spent"] = function()
    local s = one { rotating = true }
    s.store.fault = function() return "full" end
    local r = s.w.ask(2000)
    s.world.run(3000)
    is(r.code, "store_unavailable")
    is(s.requests, 0)
    s.store.fault = nil
    s.world.run(2000)
    is(refreshed(s).token, "at-1")
  end,
  ["an answer is kept and stored again until it is, and its token is not used before"] = function()
    local s = one { rotating = true }
    local failing = true
    s.store.fault = function(ops)
      if failing and ops[1].db == "state" and ops[1].secrets then return "full" end
    end
    local r = s.w.ask(60000)
    s.world.run(5000)
    is(r.done, nil)
    is(s.requests, 1)
    failing = false
    s.world.run(5000)
    is(r.token, "at-1")
    is(s.state().secrets.refresh_token, s.live)
    is(s.requests, 1)
  end,
  ["no other worker spends the refresh token while the answer waits to be stored"] = function()
    local s = setting { rotating = true }
    local a, b = s.worker "a", s.worker "b"
    s.store.fault = function(ops)
      if ops[1].db == "state" and ops[1].secrets and s.world.time.now() < 1000000 + 9000 then return "io" end
    end
    local ra, rb = a.ask(60000), b.ask(60000)
    s.world.run(15000)
    is(ra.token, "at-1")
    is(rb.token, "at-1")
    is(s.requests, 1)
  end,
  ["a commit that reports a timeout and landed is not done twice"] = function()
    local s = one { rotating = true }
    local once = true
    s.store.fault = function(ops)
      if once and ops[1].db == "state" and ops[1].secrets then once = false; return "lost" end
    end
    is(refreshed(s).token, "at-1")
    is(s.issued, 1)
    is(s.state().rotation, 2)
  end,
  ["an answer for a credential that was removed meanwhile is discarded"] = function()
    local s = one()
    s.on_processed = function()
      s.store.del("credential", "c")
      s.store.del("state", "c")
    end
    s.w.ask(500)
    s.world.run(1000)
    is(s.state(), nil)
  end,
  ["an answer for a credential that was connected anew meanwhile is discarded"] = function()
    local s = one { rotating = true }
    s.on_processed = function()
      s.store.put("state", "c", { credential = "c", rotation = 9, refresh_id = "theirs" }, { refresh_token = "rt-new" })
      s.live = "rt-new"
      s.on_processed = nil
    end
    is(refreshed(s).token, "at-2")
    assert(s.spent["rt-new"], "the new connection's token was not the one used")
    is(s.state().secrets.refresh_token, s.live)
  end,
  ["an answer for a credential whose hosts changed meanwhile is kept: its refresh token is the only one"] = function()
    local s = one { rotating = true }
    s.on_processed = function()
      s.store.put("credential", "c", { name = "c", type = "t", hosts = { "new" } })
      s.on_processed = nil
    end
    s.w.ask(2000)
    s.world.run(1000)
    is(s.state().secrets.refresh_token, s.live)
    -- earned by the old record, its access token does not serve the new one
    s.w.open_one = s.w.opened()
    is(refreshed(s).token, "at-2")
  end,

  -- ---- rotation and death
  ["a rotated refresh token replaces the one before; a missing one keeps it"] = function()
    local s = one { rotating = true }
    refreshed(s)
    is(s.state().secrets.refresh_token, "rt-1")
    s.world.run(3600 * 1000)
    refreshed(s)
    is(s.state().secrets.refresh_token, "rt-2")
    is(s.state().intent, nil)
  end,
  ["an intent is in the store before the refresh token is sent"] = function()
    local s = one { rotating = true }
    s.on_send = function()
      local state = s.state()
      is(state.intent.owner, "w1")
      is(state.secrets.refresh_token, "rt-0")
    end
    refreshed(s)
  end,
  ["a dead owner's intent is retried after the lease, and an unspent token lives on"] = function()
    local s = setting { rotating = true }
    local a, b = s.worker "a", s.worker "b"
    s.on_send = function() s.on_send = nil; s.kill(a) end
    a.ask()
    s.world.run(100)
    local r = b.ask(60000)
    s.world.run(10000)
    is(r.done, nil)     -- the dead one's request could still be answered
    is(s.requests, 1)
    s.world.run(15000)
    is(r.token, "at-1")
    is(s.requests, 2)
  end,
  ["a dead owner's spent token is lost in flight, and named so"] = function()
    local s = setting { rotating = true }
    local a, b = s.worker "a", s.worker "b"
    s.on_processed = function() s.on_processed = nil; s.kill(a) end
    a.ask()
    s.world.run(100)
    local r = b.ask(60000)
    s.world.run(30000)
    is(r.code, "oauth_refresh_failed")
    is(r.info.error, "lost_in_flight")
    assert(r.info.message:find("lost in flight", 1, true))
    is(s.requests, 2)
  end,
  ["a grant that ended while the server could not be reached is not called lost in flight; one whose answer was cut off is"] = function()
    for code, want in pairs { unreachable = "invalid_grant", tls = "invalid_grant", address_blocked = "invalid_grant",
        cut = "lost_in_flight", timeout = "lost_in_flight", too_large = "lost_in_flight" } do
      local s = one { rotating = true }
      s.mode = function(n) return n == 1 and { code = code, unprocessed = true } or nil end
      s.w.ask()
      s.world.run(1000)
      is(s.state().last_error, code)
      s.live = "ended"
      s.world.run(10 * 1000)
      local r = s.w.ask()
      s.world.run(1000)
      is(r.info.error, want)
    end
  end,
  ["a failure is noted though somebody else wrote on the state, or changed the credential, meanwhile"] = function()
    for _, change in ipairs {
      function(s) s.w.tokens:wants(s.w.open_one, { "x" }) end,
      function(s) s.store.put("credential", "c", { name = "c", type = "t", hosts = { "other" }, fields = {} }) end,
    } do
      local s = one { rotating = true, connect = true, delay = 2000 }
      s.mode = function() return { code = "invalid_grant" } end
      s.w.ask()
      s.world.run(500)
      is(s.inflight, 1)
      s.world.spawn(function() change(s) end, "w1")
      s.world.run(5000)
      is(s.state().intent, nil)
      is(s.state().last_error, "invalid_grant")
      is(s.store.get("lease", "c"), nil)
    end
  end,
  ["an intent that came too late to send is taken back"] = function()
    local s = one { rotating = true }
    s.store.latency = 6000
    s.w.ask(100)
    s.world.run(12500)
    is(s.requests, 0)
    is(s.state().intent, nil)
    s.store.latency = 1
    s.live = "ended"
    s.world.run(1000)
    local r = s.w.ask()
    s.world.run(1000)
    is(r.info.error, "invalid_grant")
  end,
  ["a refresh that timed out after the server spent the token is lost in flight too"] = function()
    local s = one { rotating = true }
    s.mode = function(n) return n == 1 and { silent = true } or nil end
    local r = s.w.ask(9000)
    s.world.run(12000)
    is(r.code, "injection_unavailable")
    s.world.run(2000)
    r = s.w.ask()
    s.world.run(1000)
    is(r.info.error, "lost_in_flight")
  end,
  ["a refresh that timed out before the server spent it goes on"] = function()
    local s = one { rotating = true }
    s.mode = function(n) return n == 1 and { silent = true, unprocessed = true } or nil end
    s.w.ask(9000)
    s.world.run(14000)
    is(refreshed(s).token, "at-1")
    is(s.state().unsure, nil)
  end,
  ["a worker frozen past its lease still brings its answer home"] = function()
    local s = setting { rotating = true }
    local a, b = s.worker "a", s.worker "b"
    s.mode = function(n) return n == 1 and { frozen = 40000 } or nil end
    local ra = a.ask(60000)
    s.world.run(100)
    local rb = b.ask(60000)
    s.world.run(30000)
    -- the other one tried the same refresh token after the lease, and was told that it is spent
    is(s.requests, 2)
    is(rb.info.error, "lost_in_flight")
    is(ra.info.error, "lost_in_flight")
    s.world.run(30000)
    is(s.state().secrets.refresh_token, s.live)
    is(refreshed(s, b).token, "at-1")
    is(s.requests, 2)
  end,
  ["invalid_grant without a doubt is invalid_grant"] = function()
    local s = one { rotating = true }
    s.live = "another"
    local r = s.w.ask()
    s.world.run(1000)
    is(r.info.error, "invalid_grant")
  end,
  ["a reboot ends every lease"] = function()
    local s = setting()
    local a, b = s.worker "a", s.worker "b"
    s.on_send = function() s.on_send = nil; s.kill(a) end
    a.ask()
    s.world.run(100)
    s.world.id = "boot-2"
    local r = b.ask()
    s.world.run(1000)
    is(r.token, "at-1")
  end,
  ["a wall clock that jumps makes no lease immortal and no lease short"] = function()
    local s = setting { delay = 2000 }
    local a, b = s.worker "a", s.worker "b"
    a.ask()
    s.world.run(500)
    s.world.skew = 86400
    local r = b.ask()
    s.world.run(300)
    is(s.requests, 1)
    s.world.skew = -86400
    s.world.run(300)
    is(s.requests, 1)
    s.world.skew = 0
    s.world.run(3000)
    is(r.token, "at-1")
  end,

  -- ---- dropped tokens
  ["a 401 drops a token that is not new; the next request refreshes"] = function()
    local s = one()
    refreshed(s)
    s.world.run(60 * 1000)
    s.world.spawn(function() is(s.w.tokens:rejected(s.w.open_one), true) end, "w1")
    s.world.run(100)
    is(refreshed(s).token, "at-2")
  end,
  ["a 401 for a token just issued drops nothing"] = function()
    local s = one()
    refreshed(s)
    s.world.spawn(function() is(s.w.tokens:rejected(s.w.open_one), false) end, "w1")
    s.world.run(100)
    is(refreshed(s).token, "at-1")
  end,
  ["at most one token a minute is dropped"] = function()
    local s = one()
    refreshed(s)
    local dropped = 0
    for _ = 1, 60 do
      s.world.run(10 * 1000)
      s.world.spawn(function() if s.w.tokens:rejected(s.w.open_one) then dropped = dropped + 1 end end, "w1")
      s.world.run(100)
      refreshed(s)
    end
    assert(dropped >= 8 and dropped <= 11, tostring(dropped))
    is(s.requests, dropped + 1)
  end,
  ["two workers that see the same 401 drop one token"] = function()
    local s = setting()
    local a, b = s.worker "a", s.worker "b"
    refreshed(s, a)
    s.world.run(60 * 1000)
    for _, w in ipairs { a, b } do s.world.spawn(function() w.tokens:rejected(w.open_one) end, w.name) end
    s.world.run(100)
    is(refreshed(s, a).token, "at-2")
    is(refreshed(s, b).token, "at-2")
    is(s.requests, 2)
  end,
  -- ---- what a person consented to
  ["a token that nobody can renew is not dropped for a 401, and works for a record that changed"] = function()
    local s = one { connect = true }
    s.version = s.store.put("credential", "c", { name = "c", type = "t", fields = { client_id = "i", token_url = "u" } })
    s.w.open_one = s.w.opened()
    local answer = { secrets = { access_token = "at-0" }, expires_at = s.world.time.wall() + 400 * 86400 }
    s.world.spawn(function()
      is(s.w.tokens:connected(s.w.open_one, answer, s.world.time.wall(), { "a" }), true)
    end, "w1")
    s.world.run(60 * 1000)
    is(s.state().expires_at - s.state().obtained_at, 400 * 86400)   -- DESIGN's thirty days are for what can be renewed
    s.world.spawn(function() is(s.w.tokens:rejected(s.w.open_one), false) end, "w1")
    s.world.run(100)
    is(refreshed(s).token, "at-0")
    assert(s.state().refused_at)
    s.store.put("credential", "c", { name = "c", type = "t", hosts = { "new" }, fields = { client_id = "i", token_url = "u" } })
    s.w.open_one = s.w.opened()
    is(refreshed(s).token, "at-0")
    s.store.put("credential", "c", { name = "c", type = "t", fields = { client_id = "j", token_url = "u" } })
    s.w.open_one = s.w.opened()
    is(refreshed(s).token, "at-1")      -- another client's grant is not its own
    is(s.requests, 1)
  end,
  ["a consent that is stored while a refresh is in flight wins over its answer"] = function()
    local s = one { connect = true, rotating = true, delay = 2000 }
    s.w.ask(20000)
    s.world.run(500)
    is(s.inflight, 1)
    s.world.spawn(function()
      local answer = { secrets = { access_token = "new-at", refresh_token = "new-rt" }, expires_at = s.world.time.wall() + 3600 }
      is(s.w.tokens:connected(s.w.open_one, answer, s.world.time.wall(), {}), true)
    end, "w1")
    s.world.run(5000)
    is(s.state().secrets.access_token, "new-at")
    is(s.state().secrets.refresh_token, "new-rt")
    is(s.state().intent, nil)
    is(refreshed(s).token, "new-at")
    is(s.requests, 1)
  end,
  ["a consent is stored over a refresh that came first, and without its refresh token"] = function()
    local s = one { connect = true, rotating = true }
    refreshed(s)
    s.world.spawn(function()
      local answer = { secrets = { access_token = "new-at" }, expires_at = s.world.time.wall() + 3600 }
      is(s.w.tokens:connected(s.w.open_one, answer, s.world.time.wall(), {}), true)
    end, "w1")
    s.world.run(1000)
    is(s.state().secrets.access_token, "new-at")
    is(s.state().secrets.refresh_token, nil)
  end,
  ["another grant, and the end of one, move the credential's epoch: what was sealed for it ends; a refresh does not"] = function()
    local s = one { connect = true, rotating = true }
    refreshed(s)
    is(s.store.epoch("credential", "c"), 0)
    s.world.spawn(function()
      local answer = { secrets = { access_token = "new-at", refresh_token = "new-rt" }, expires_at = s.world.time.wall() + 3600 }
      is(s.w.tokens:connected(s.w.open_one, answer, s.world.time.wall(), {}), true)
    end, "w1")
    s.world.run(1000)
    is(s.store.epoch("credential", "c"), 1)
    s.world.spawn(function() s.w.tokens:forget("c", s.w.tokens:hold("c", s.world.time.now() + 25000)) end, "w1")
    s.world.run(1000)
    is(s.state(), nil)
    is(s.store.epoch("credential", "c"), 2)
  end,
  ["a consent is not stored for a client that was changed meanwhile, nor for a credential that is gone"] = function()
    local s = one { connect = true }
    local results = {}
    local function store()
      s.world.spawn(function()
        local answer = { secrets = { access_token = "x" }, expires_at = s.world.time.wall() + 3600 }
        results[#results + 1] = select(2, s.w.tokens:connected(s.w.open_one, answer, s.world.time.wall(), {}))
      end, "w1")
      s.world.run(1000)
    end
    s.store.put("credential", "c", { name = "c", type = "t", fields = { client_id = "other" } })
    store()
    s.store.del("credential", "c")
    store()
    is(results[1], "changed")
    is(results[2], "absent")
    is(s.state(), nil)
  end,
  ["a refresh token is not sent for another client or to another token address, and counts again when they come back"] = function()
    local s = one { connect = true, rotating = true }
    local function set(client, url)
      s.store.put("credential", "c", { name = "c", type = "t", fields = { client_id = client, token_url = url } })
      s.w.open_one = s.w.opened()
    end
    set("i", "u")
    is(refreshed(s).token, "at-1")
    for _, other in ipairs { { "j", "u" }, { "i", "elsewhere" } } do
      set(other[1], other[2])
      local got = s.w.ask()
      s.world.run(1000)
      is(got.code, "oauth_refresh_failed")
      is(got.info.error, "other_client")
      is(s.requests, 1)
      is(s.state().intent, nil)
    end
    set("i", "u")
    is(refreshed(s).token, "at-1")
    s.world.run(3600 * 1000)
    is(refreshed(s).token, "at-2")
  end,
  ["a grant that was stored while another was being ended stays"] = function()
    local s = one { connect = true, rotating = true }
    refreshed(s)
    local held, ok, why
    s.world.spawn(function()
      held = s.w.tokens:hold("c", s.world.time.now() + 25000)
      s.world.time.sleep(5000)                     -- the server takes its time to revoke
      ok, why = s.w.tokens:forget("c", held)
    end, "w1")
    s.world.run(1000)
    s.world.spawn(function()
      local answer = { secrets = { access_token = "new-at" }, expires_at = s.world.time.wall() + 3600 }
      is(s.w.tokens:connected(s.w.open_one, answer, s.world.time.wall(), {}), true)
    end, "w1")
    s.world.run(10000)
    is(ok, nil)
    is(why, "changed")
    is(s.state().secrets.access_token, "new-at")
    is(refreshed(s).token, "new-at")
    -- What is only noted about the grant does not save it.
    s.world.spawn(function()
      held = s.w.tokens:hold("c", s.world.time.now() + 25000)
      is(s.w.tokens:wants(s.w.open_one, { "a" }), true)
      ok = s.w.tokens:forget("c", held)
    end, "w1")
    s.world.run(5000)
    is(ok, true)
    is(s.state(), nil)
  end,
  ["scopes that an API asks for are noted, at most once a minute, and survive a refresh"] = function()
    local s = one { connect = true, rotating = true }
    refreshed(s)
    local function wants(scopes)
      local r
      s.world.spawn(function() r = s.w.tokens:wants(s.w.open_one, scopes) end, "w1")
      s.world.run(100)
      return r
    end
    is(wants { "a", "b" }, true)
    is(wants { "c" }, false)
    s.world.run(61 * 1000)
    is(wants { "a" }, false)            -- nothing new
    is(wants { "c" }, true)
    s.world.run(3600 * 1000)
    refreshed(s)
    is(table.concat(s.state().wanted, " "), "a b c")
    local many = {}
    for i = 1, 500 do many[i] = "s" .. i end
    s.world.run(61 * 1000)
    wants(many)
    is(#s.state().wanted, 50)
  end,
  ["which challenges ask for scopes, and what of them is kept"] = function()
    local function scopes(v, status)
      local list = token.insufficient(status or 403, v)
      return list and table.concat(list, " ")
    end
    is(scopes 'Bearer error="insufficient_scope", scope="a b:c https://x/y"', "a b:c https://x/y")
    is(scopes 'Bearer realm="x", scope=a, error=insufficient_scope', "a")
    is(scopes 'Bearer error="insufficient_scope"', "")
    is(scopes('Bearer error="insufficient_scope", scope="a"', 401), nil)
    is(scopes 'Bearer error="invalid_token", scope="a"', nil)
    is(scopes 'Bearer error="insufficient_scope_x"', nil)
    is(scopes 'Bearer realm="error=insufficient_scope, scope=x"', nil)
    is(scopes 'DPoP error="insufficient_scope", scope="x"', nil)
    is(scopes 'Bearer error="insufficient_scope', nil)
    is(scopes(nil), nil)
    is(scopes('Bearer error="insufficient_scope", scope="\27[31m ok ' .. ("x"):rep(201) .. ' caf\195\169 a\\b"'), "ok ab")
    is(#token.insufficient(403, 'Bearer error="insufficient_scope", scope="' .. ("a "):rep(1000) .. '"'), 50)
  end,
  ["whoever ends a grant waits for a refresh in flight, and then nobody renews it"] = function()
    local s = setting { connect = true, rotating = true, delay = 2000 }
    local a, b = s.worker "a", s.worker "b"
    a.ask(20000)
    s.world.run(500)
    local held
    s.world.spawn(function() held = b.tokens:hold("c", s.world.time.now() + 25000) end, "b")
    s.world.run(1000)
    is(held, nil)
    s.world.run(2000)
    is(held.secrets.refresh_token, s.live)
    s.delay = 20
    s.world.run(3600 * 1000)            -- a dead holder's lease ends too
    is(refreshed(s, a).token, "at-2")
    s.world.spawn(function() b.tokens:hold("c", s.world.time.now() + 25000); b.tokens:forget "c" end, "b")
    s.world.run(100)
    is(s.state(), nil)
    is(s.store.get("lease", "c"), nil)
  end,
  ["a lease that ran out while it was held, and that another took since, is not given back in its place"] = function()
    local s = setting { connect = true, rotating = true, delay = 8000 }
    local a, b = s.worker "a", s.worker "b"
    s.world.spawn(function()
      b.tokens:hold("c", s.world.time.now() + 25000)
      is(b.tokens:may_send "c", true)
      s.world.time.sleep(21000)                    -- stopped with Ctrl-Z, say
      is(b.tokens:may_send "c", false)
      s.world.time.sleep(2000)
      b.tokens:release "c"
    end, "b")
    s.world.run(21500)
    a.ask(30000)
    s.world.run(3000)
    is(s.inflight, 1)
    assert(s.store.get("lease", "c"), "the other's lease is gone: its refresh token could be spent again")
    s.world.run(30000)
    is(s.requests, 1)
  end,
  ["what kind of trouble a connection had is told in our own words alone"] = function()
    is(token.sentence("tls", "certificate expired"), "TLS with the token endpoint failed: certificate expired")
    is(token.sentence("unreachable", "the name does not resolve"), "the token endpoint cannot be reached: the name does not resolve")
    is(token.sentence("timeout", "no answer in time"), "the token endpoint did not answer in time")
    is(token.sentence("timeout", "the TLS handshake took too long"):match(": (.*)"), "the TLS handshake took too long")
    for _, detail in ipairs { { status = 200 }, ("x"):rep(101), "a\nb", "\195\169" } do
      is(token.sentence("tls", detail), "TLS with the token endpoint failed")
    end
    is(token.sentence("invalid_grant", "canary of the server"):find("canary", 1, true), nil)
  end,
  ["which answers say that a token is dead"] = function()
    local pol = { expired = { 498 } }
    is(token.says_expired(pol, 401), true)
    is(token.says_expired(pol, 498), true)
    is(token.says_expired(pol, 403), false)
    local named = { expired = { "ExpiredToken", "ExpiredTokenException" } }
    is(token.says_expired(named, 400, nil, "ExpiredTokenException:http://internal.amazon.com/coral/x/"), true)
    is(token.says_expired(named, 400, nil, "com.amazon.coral.service#ExpiredTokenException"), true)
    is(token.says_expired(named, 400, nil, "ValidationException"), false)
    is(token.says_expired(named, 400, nil, ""), false)
    is(token.says_expired(pol, 403, 'Bearer realm="x", error="invalid_token"'), true)
    is(token.says_expired(pol, 403, "Bearer error=invalid_token"), true)
    is(token.says_expired(pol, 403, 'Bearer error="insufficient_scope"'), false)
    is(token.says_expired(pol, 403, 'Bearer error_description="invalid_token"'), false)
    is(token.says_expired(pol, 403, 'Bearer error="invalid_token_type"'), false)
    is(token.says_expired(pol, 500, 'Bearer error="invalid_token"'), false)
  end,
}

-- kill -9 at every step of a refresh: before and after each commit, when the request goes out, when it is processed.
-- The store holds the old state or the new one whole, the lease is taken over, and requests go on.
for _, rotating in ipairs { false, true } do
  for step = 1, 8 do
    cases[("kill -9 at step %d of a refresh%s"):format(step, rotating and " that rotates" or "")] = function()
      local s = setting { rotating = rotating }
      local a, b = s.worker "a", s.worker "b"
      refreshed(s, a)
      s.world.run(3600 * 1000)
      local n = 0
      local function tick()
        n = n + 1
        if n == step then s.kill(a) end
      end
      s.store.before, s.store.after, s.on_send, s.on_processed = tick, tick, tick, tick
      a.ask()
      s.world.run(100)
      s.store.before, s.store.after, s.on_send, s.on_processed = nil, nil, nil, nil
      local state = s.state()
      assert(state.secrets.access_token == "at-1" or state.secrets.access_token == "at-2")
      -- old or new, whole: the access token, the refresh token and their count belong together
      local new = state.secrets.access_token == "at-2"
      is(state.rotation, rotating and (new and 3 or 2) or 0)
      is(state.secrets.refresh_token, rotating and (new and "rt-2" or "rt-1") or nil)
      local r = b.ask(60000)
      s.world.run(30000)
      if r.code then
        -- the one loss that cannot be helped: the server had spent the token, its answer died with the worker
        is(r.info.error, "lost_in_flight")
        assert(rotating and s.spent["rt-1"] and state.secrets.refresh_token == "rt-1")
      else
        assert(r.token == "at-2" or r.token == "at-3")
      end
    end
  end
end

-- The same in a row: a worker that dies at a random step of each refresh, hundreds of times.
cases["kill -9 of the worker at random steps, hundreds of times, and requests go on"] = function()
  local s = setting()
  local seed = 1
  for round = 1, 300 do
    local w = s.worker("w" .. round)
    seed = (seed * 1103515245 + 12345) % 2147483648
    local step, n = seed // 65536 % 8 + 1, 0
    local function tick()
      n = n + 1
      if n == step then s.kill(w) end
    end
    s.store.before, s.store.after, s.on_send, s.on_processed = tick, tick, tick, tick
    w.ask()
    s.world.run(22000)
    s.store.before, s.store.after, s.on_send, s.on_processed = nil, nil, nil, nil
    local r = s.worker("v" .. round).ask()
    s.world.run(1000)
    assert(r.token, ("round %d: %s"):format(round, tostring(r.code)))
    s.world.run(3600 * 1000)
  end
end

return cases
