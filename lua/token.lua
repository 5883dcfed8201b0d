--- The life of a token: when it is fresh, who renews it, and what happens when that fails or somebody dies.
--
-- One refresh per credential at a time, in all workers: a lease in the store says who, timed by CLOCK_BOOTTIME and
-- boot id, so that neither a wrong wall clock nor a reboot makes a dead owner immortal. The refresh is a task of its
-- own: callers only wait for what it writes. Callers that have a valid token do not even do that.
--
-- A refresh token is spent by sending it, so before it goes out an intent is committed: who sends it, and room for
-- the answer. The answer is committed before its access token is used, only over the token that the intent named,
-- and retried until it is. An intent whose owner is dead is tried again after the lease; if the server then says
-- invalid_grant, its answer died with the owner and the credential is `lost_in_flight`. DESIGN speaks of the token's
-- hash in the intent: a secret's hash is a secret too and cannot be compared in Lua, so `rotation`, a count of the
-- refresh tokens this record has held, names it instead.
--
-- A type that a person connects (`connect`) gets its first token from lua/cli/authorization.lua, through M:connected. Its
-- grant belongs to the client and the token address, so that a change of hosts or paths does not end it.
--
-- state/NAME, plain: token_version (of the credential that earned it), earner (of a grant: client and token address),
--   pasted (of a grant that began with a refresh token from elsewhere: its mark, by which it is known again),
--   obtained_at, expires_at, fresh_until, dropped, dropped_at, scopes (asked for), granted (where the server said),
--   wanted (that an API asks for besides), wanted_at, refused_at (a 401 that could not be acted on), refresh_id,
--   rotation, values, intent = { owner, boot_id, at, tries }, unsure, and of the last failure: last_error, error_detail
--   (which kind of trouble), error_why (the type's own words, for the operator), error_status (of the endpoint), last_error_at, error_version, final, transient, failures, retry_boot, boot_id.
--   Times: Unix s; *_boot ms.
-- state/NAME, sealed: access_token, refresh_token, and whatever else the type's `refresh` answered.
-- lease/NAME: owner, boot_id, until_boot_ms.
--
-- token.new{ store, time, policy, keep, cache, freeze, net_for = function(opened) -> net, owner = unique string,
--            new_id = function() -> string, spawn = function(fn) -> task | nil (commands), log = function(text) }
local challenge = require "challenge"
local errors = require "errors"
local oauth = require "oauth"
local M = {}
M.__index = M

local MARGIN = 300            -- s: renewed this long before the end, or at half of a life under ten minutes
local LIFE_MAX = 30 * 86400   -- s: whatever a server says
local LASTING = 10 * 366 * 86400  -- s: the same, for a token that nobody can renew
local LIFE_DEFAULT = 300      -- s: where a type's refresh says nothing of use
local REFRESH_MAX = 10000     -- ms for one refresh, all its calls together
local LEASE = 20000           -- ms: REFRESH_MAX, the commits around it, and a pause that a scheduler may make
local SEND_SLACK = 5000       -- ms from taking the lease to sending: later, another may think us dead while we send
local COMMIT_MAX = 5000       -- ms for one commit
local COMMIT_PAUSE_MAX = 2000 -- ms between two tries to store an answer: well within a lease, so we come first
local POLL_OWN, POLL_OTHER = 5, 50  -- ms between two looks: at our own task, at another worker's
local BACKOFF_MAX = 60        -- s: 1, 2, 4, … 60
local RETRY_AFTER_MAX = 3600  -- s: a server's wish is obeyed so far
local JUST_ISSUED = 10        -- s: a 401 for a younger token is not about the token
local DROP_EVERY = 60         -- s: an agent that provokes 401s must not make us hammer the token endpoint
local CLOCK_BACK = 60         -- s: a token from this far in the future says the clock was set back: renew it
local ROOM = 8192             -- bytes kept free for the answer: two tokens and a JWT fit
local SNAPSHOTS_MAX = 1024
local FAILURE_TRIES = 3       -- to store a failure: what is lost by it is a back-off
local WANTED_MAX = 50         -- scopes kept of challenges: an upstream writes them
local WORDS_MAX = 240         -- bytes of a policy's own text that are kept: with its place a line of the log
local CONNECT_STORE_MAX = 60000  -- ms to store what a person has just consented to

-- The server has judged the grant or the client itself; asking again brings the same answer (RFC 6749 5.2).
local final_codes = {
  invalid_grant = true, invalid_client = true, unauthorized_client = true, not_connected = true, grant_ended = true,
  bad_key = true, other_client = true,
}
-- It may pass by itself: callers are told to retry.
local transient_codes = {
  timeout = true, unreachable = true, cut = true, unavailable = true, server_error = true, temporarily_unavailable = true,
  slow_down = true, clock_unset = true, store = true, draining = true,
}
-- After these the server may have spent the refresh token though no answer came to us. Not after "unreachable" and "tls":
-- no byte of the request went out.
local unsure_codes = {
  timeout = true, cut = true, unavailable = true, too_large = true, malformed = true, no_access_token = true,
  server_error = true, policy_failed = true, type_refused = true, token_type = true, refused = true, unregistered_error = true,
}

function M.new(with)
  local self = setmetatable({}, M)
  for _, name in ipairs { "store", "time", "policy", "keep", "cache", "freeze", "net_for", "owner", "new_id" } do
    self[name] = assert(with[name], name)
  end
  self.spawn = with.spawn
  self.acting = with.acting or function() end
  self.log = with.log or function() end
  self.meter = with.meter or function() end
  self.snapshots = self.cache(SNAPSHOTS_MAX)
  self.inflight = {}          -- name -> the task that refreshes it here
  self.held = {}              -- name -> { lease, boot }: what `hold` took
  self.told = {}              -- name -> version of the state whose failure this worker's log has
  self.pauses = {}            -- name -> { until_boot, code }: a failure that could not be stored
  return self
end

-- ---- what a state record says --------------------------------------------------------------------

local function copy(t, without)
  local out = {}
  for k, v in pairs(t) do
    if k ~= "version" and k ~= "secrets" and not (without and without[k]) then out[k] = v end
  end
  return out
end

--- When a token of this life, obtained at that time, stops being fresh.
function M.fresh_until(obtained_at, life)
  return obtained_at + life - math.min(MARGIN, life / 2)
end

--- "fresh": serve it. "valid": serve it and renew. "none": there is nothing to serve.
function M.standing(state, credential_version, now, earner)
  if not state.expires_at or state.dropped then return "none" end
  if state.token_version ~= credential_version and not (earner and state.earner == earner) then return "none" end
  if now >= state.expires_at then return "none" end
  if now >= state.fresh_until or now < state.obtained_at - CLOCK_BACK then return "valid" end
  return "fresh"
end

--- Whose grant a record holds: a text that stays the same while client and token address do. nil: no such type.
function M.earner(pol, rec)
  local f = rec.fields or {}
  return pol.connect and ("%s %s"):format(f.client_id or "", f.token_url or "") or nil
end

--- Does the grant in a state record belong to the credential as it is now? A refresh token must not reach another
-- address than the one that gave it: the one named now may be a stranger's (an MCP server that moved says where).
function M.ours(opened, state)
  return state.earner == nil or state.earner == M.earner(opened.pol, opened.rec)
end

local function standing_of(opened, state, now)
  return M.standing(state, opened.rec.version, now, M.earner(opened.pol, opened.rec))
end

-- What went wrong, for whom it concerns. Other codes are registered ones of the server's, and speak for themselves.
local said = {
  bad_key = "its private key cannot sign",
  app_refused = "GitHub does not take the App's signature: is the key the App's, and this machine's clock right?",
  no_installation = "GitHub knows no such installation of the App",
  not_granted = "the installation does not have those repositories or permissions",
  lost_in_flight = "its refresh token was lost in flight: it was sent, and the answer never arrived; connect it anew",
  not_connected = "it has not been connected yet",
  other_client = "its grant belongs to another client or token address; connect it anew",
  grant_ended = "its token has ended, and the server gave none to renew it with",
  policy_failed = "its type's refresh failed",
  type_refused = "its type's refresh gave up",
  timeout = "the token endpoint did not answer in time",
  unreachable = "the token endpoint cannot be reached",
  cut = "the token endpoint broke off its answer",
  unavailable = "the token endpoint is out of order",
  tls = "TLS with the token endpoint failed",
  address_blocked = "the token endpoint's address is not public; --address CIDR would allow it",
  clock_unset = "this machine's clock is not set",
  redirect = "the token endpoint redirects, which is not followed",
  refused = "the token endpoint refuses, without a code",
  malformed = "the token endpoint's answer is malformed",
  too_large = "the token endpoint's answer is too large",
  no_access_token = "the token endpoint's answer has no access_token",
  token_type = "the token endpoint's answer has another token_type than Bearer",
  unregistered_error = "the token endpoint answers with an error of its own",
  no_helpers = "it runs a program, and the proxy was started without a folder of programs: serve --helpers DIR",
  command_failed = "its program failed; the log has its exit status",
  command_timeout = "its program did not end in time",
  command_missing = "there is no such program in the folder of serve --helpers",
  command_unsafe = "its program, or the folder, may be written to by other users",
  command_malformed = "its program did not print a JSON object of headers",
  command_too_large = "its program printed more than 64 KiB",
  command_busy = "its program could not be run now",
  url_not_declared = "its type asks a URL that neither it nor the credential names",
}

-- Codes of our own connection, whose detail is one of proxy.c's fixed phrases ("certificate expired").
local detailed = { tls = true, unreachable = true, timeout = true, cut = true, address_blocked = true }

--- What may be told of a failure beside its code; nil: nothing.
function M.detail(code, detail)
  if not detailed[code] or type(detail) ~= "string" or #detail > 100 or detail:find("[^ -~]") then return nil end
  return detail ~= "no answer in time" and detail or nil
end

--- What the operator may be told besides: "policies/acme.lua:21: …; the endpoint answered 403" | nil. Never for an agent.
function M.why(state)
  local status = state.error_status and "the endpoint answered " .. state.error_status
  return state.error_why and status and state.error_why .. "; " .. status or state.error_why or status
end

--- A code as a sentence.
function M.sentence(code, detail)
  local more = M.detail(code, detail)
  return (said[code] or "the token endpoint answers " .. tostring(code)) .. (more and ": " .. more or "")
end

local function message_of(name, state)
  return ("credential %s: %s"):format(name, M.sentence(state.last_error, state.error_detail))
end

--- Why no refresh may start now: code, { message, retry_after, error }; nil if one may.
function M.blocked(name, state, credential_version, boot, boot_id)
  if state.error_version ~= credential_version then return nil end
  local info = { error = state.last_error, message = message_of(name, state), why = M.why(state) }
  if state.final then
    return state.last_error == "not_connected" and "oauth_not_connected" or "oauth_refresh_failed", info
  end
  local left = state.boot_id == boot_id and (state.retry_boot or 0) - boot or 0
  if left <= 0 or left > RETRY_AFTER_MAX * 1000 then return nil end
  info.retry_after = math.max(1, math.ceil(left / 1000))
  if state.last_error == "policy_failed" then return "policy_failed", info end
  if state.last_error == "clock_unset" then return "clock_unset", info end
  if state.last_error == "no_helpers" or state.last_error:find("^command_") then return "injection_failed", info end
  return state.transient and "injection_unavailable" or "oauth_refresh_failed", info
end

--- A lease binds until its time is over, on the boot that made it. One from too far ahead was not made by us.
function M.lease_lives(lease, boot, boot_id)
  if not lease or lease.boot_id ~= boot_id then return false end
  local left = (lease.until_boot_ms or 0) - boot
  return left > 0 and left <= LEASE
end

-- ---- reading -------------------------------------------------------------------------------------

local ABSENT = { version = 0, secrets = {} }

-- The state record as it is now; read again only when some state has changed. nil: damaged.
local function look(self, name)
  local _, generation = self.store.generation()
  local snap = self.snapshots:get(name)
  if snap and snap.generation == generation then return snap.state end
  local state, why = self.store.get("state", name)
  if not state then
    if why ~= "absent" then return nil, why end
    state = ABSENT
  end
  if snap and snap.state.version == state.version then
    snap.generation = generation
    return snap.state
  end
  for _, secret in pairs(state.secrets or {}) do self.keep(secret, name) end
  self.snapshots:put(name, { generation = generation, state = state })
  return state
end

-- What policies see as cred.state. `apply` has no use for a refresh token, so it does not get it.
local function values_of(state, for_apply)
  local values = {}
  for k, v in pairs(state.values or {}) do values[k] = v end
  for k, v in pairs(state.secrets or {}) do
    if not (for_apply and k == "refresh_token") then values[k] = v end
  end
  return values
end

local function view_of(self, opened, state)
  if opened.state_version ~= state.version then
    opened.state_view = self.freeze(self.policy.record_view(opened.pol, opened.rec, values_of(state, true)))
    opened.state_version = state.version
  end
  return opened.state_view
end

--- A policy's words with their place, bounded, and without what the endpoint wrote.
function M.words(policy, pol, words, seen)
  local place, text = policy.placed(pol, words):match("^(policies/[%w_]+%.lua:%d+: )(.*)$")
  text = require("policy_log").escape(oauth.without_answers(text or words, seen, pol.source))
  if #text > WORDS_MAX then text = text:sub(1, WORDS_MAX):gsub("[\xc2-\xf4]?[\x80-\xbf]*$", "") .. "…" end
  return (place or "") .. text
end

-- ---- a refresh: the task -------------------------------------------------------------------------

-- Takes the lease and, where a refresh token will be spent, leaves the intent: one commit.
-- -> { lease, state } versions | nil
local function take_lease(self, opened, state, lease)
  local name, boot = opened.name, self.time.boot()
  local ops = { {
    op = "put", db = "lease", key = name, version = lease and lease.version or 0,
    plain = { owner = self.owner, boot_id = self.time.boot_id(), until_boot_ms = boot + LEASE },
  } }
  if state.secrets and state.secrets.refresh_token then
    local plain = copy(state)
    plain.unsure = plain.unsure or plain.intent ~= nil or nil
    plain.intent = {
      owner = self.owner, boot_id = self.time.boot_id(), at = self.time.wall(),
      tries = (state.intent and state.intent.tries or 0) + 1,
    }
    ops[2] = { op = "put", db = "state", key = name, plain = plain, keep = true, version = state.version, room = ROOM }
  else
    -- Somebody who was faster shows as a conflict, and we look again instead of asking the server twice.
    ops[2] = { op = "check", db = "state", key = name, version = state.version }
  end
  -- A credential that changed or went meanwhile must not be asked for with what it was.
  ops[3] = { op = "check", db = "credential", key = name, version = opened.rec.version }
  local ok, version = self.store.commit(ops, self.time.now() + COMMIT_MAX)
  if not ok then
    if version ~= "conflict" then
      self.log(("ev=refresh credential=%s err=store_%s"):format(name, tostring(version)))
      self.pauses[name] = { until_boot = self.time.boot() + 1000, code = "store" }
    end
    return nil
  end
  return { lease = version, state = ops[2].op == "put" and version or state.version, boot = boot }
end

-- Stores an answer over the token that was sent, however long that takes. Only a state that has moved on by itself
-- (connected anew, removed, a rotation that came first) makes it void.
local function store_answer(self, opened, held, base, plain, secrets)
  local name, pause = opened.name, 100
  local credential_version, state_version, with_lease = opened.rec.version, held.state, true
  while true do
    local ops = {
      { op = "put", db = "state", key = name, plain = plain, secrets = secrets, keep = true, version = state_version },
      { op = "check", db = "credential", key = name, version = credential_version },
    }
    if with_lease then ops[3] = { op = "del", db = "lease", key = name, version = held.lease } end
    local ok, why = self.store.commit(ops, self.time.now() + COMMIT_MAX)
    if ok then return true end
    local now = self.store.get("state", name) or ABSENT
    -- A commit that timed out may have landed after all.
    if now.refresh_id == plain.refresh_id then return true end
    if why == "conflict" then
      local cred = self.store.peek("credential", name)
      if not cred or now.rotation ~= base.rotation or now.refresh_id ~= base.refresh_id
        or (now.version == 0) ~= (base.version == 0) then
        self.log(("ev=refresh_discarded credential=%s"):format(name))
        return false
      end
      credential_version, state_version = cred.version, now.version
      local lease = self.store.get("lease", name)
      with_lease = lease ~= nil and lease.version == held.lease
    else
      self.log(("ev=refresh credential=%s err=store_%s kept=yes"):format(name, tostring(why)))
      self.time.sleep(pause)
      pause = math.min(pause * 2, COMMIT_PAUSE_MAX)
    end
  end
end

-- Base with a failure's marks, and without the intent: the answer is known.
local function failed_plain(self, opened, base, state, code, detail, told)
  local time, plain = self.time, copy(state, { intent = true })
  local spent = base.secrets and base.secrets.refresh_token ~= nil
  plain.unsure = spent and (base.unsure or base.intent ~= nil or unsure_codes[code]) or nil
  plain.final = final_codes[code] or nil
  plain.transient = transient_codes[code] or nil
  -- invalid_grant after a send whose answer we never saw: that answer held the new token.
  local lost = code == "invalid_grant" and spent and (base.unsure or base.intent ~= nil)
  plain.last_error = lost and "lost_in_flight" or code
  plain.error_detail = M.detail(plain.last_error, detail)
  plain.error_why, plain.error_status = told.why, told.status
  plain.last_error_at, plain.error_version = time.wall(), opened.rec.version
  plain.failures = (base.error_version == opened.rec.version and base.failures or 0) + 1
  local wait = math.min(BACKOFF_MAX, 2 ^ math.min(plain.failures - 1, 10))
  local wish = type(detail) == "table" and detail.retry_after
  if type(wish) == "number" then wait = math.max(wait, math.min(wish, RETRY_AFTER_MAX)) end
  plain.retry_boot, plain.boot_id = time.boot() + math.floor(wait * 1000), time.boot_id()
  return plain
end

-- One line for a failure: where, what and which status, so that its author need not guess.
local function tell(self, opened, state)
  self.log(("ev=refresh credential=%s err=%s%s%s%s"):format(opened.name, state.last_error,
    state.error_detail and " why=" .. errors.quote(state.error_detail) or "",
    state.error_why and (" policy=%s why=%s"):format(opened.pol.name, errors.quote(state.error_why)) or "",
    state.error_status and " status=" .. state.error_status or ""))
end

local function store_failure(self, opened, held, base, code, detail, told)
  local name, time = opened.name, self.time
  local state, state_version, plain, ok, why = base, held.state, nil, nil, nil
  for _ = 1, FAILURE_TRIES do
    local cred = self.store.peek("credential", name)
    plain = failed_plain(self, opened, base, state, code, detail, told)
    ok, why = self.store.commit({
      { op = "put", db = "state", key = name, plain = plain, keep = true, version = state_version },
      { op = "check", db = "credential", key = name, version = cred and cred.version or opened.rec.version },
      { op = "del", db = "lease", key = name, version = held.lease },
    }, time.now() + COMMIT_MAX)
    if ok or why ~= "conflict" then break end
    -- A mark that somebody made on the state meanwhile, or another version of the credential: the intent is still ours.
    state = self.store.get("state", name) or ABSENT
    state_version = state.version
    if (state.intent or {}).owner ~= self.owner or state.rotation ~= base.rotation or state.refresh_id ~= base.refresh_id then break end
  end
  if not ok then
    -- Somebody else's newer word stands; or the store is in trouble, and we remember by ourselves.
    if why ~= "conflict" then self.pauses[name] = { until_boot = plain.retry_boot, code = code } end
    self.store.commit({ { op = "del", db = "lease", key = name, version = held.lease } }, time.now() + COMMIT_MAX)
  end
  self.told[name] = ok and why or nil
  self.meter("refreshes", "failed")
  tell(self, opened, plain)
end

-- A policy may have made the list by itself.
local function granted_of(list)
  local words = {}
  for _, scope in ipairs(type(list) == "table" and list or {}) do
    words[#words + 1] = type(scope) == "string" and scope or nil
  end
  return list and oauth.scopes(table.concat(words, " "))
end

-- A refresh may say less than the first answer did.
local function values_with(opened, base, plain)
  local out = {}
  for k, v in pairs(base.token_version == opened.rec.version and base.values or {}) do out[k] = v end
  for k, v in pairs(plain or {}) do out[k] = v end
  return next(out) and out or nil
end

local function answer_plain(self, opened, base, answer, sent_at)
  local life = tonumber(answer.expires_at) and answer.expires_at - sent_at or nil
  if not life or life ~= life or life < 1 then life = LIFE_DEFAULT end
  -- What nobody can renew is worth its whole life (DESIGN's thirty days would only end it early).
  local renewable = not opened.pol.connect or answer.secrets.refresh_token or base.secrets and base.secrets.refresh_token
  life = math.floor(math.min(life, renewable and LIFE_MAX or LASTING))
  return {
    credential = opened.name, token_version = opened.rec.version, refresh_id = self.new_id(),
    earner = M.earner(opened.pol, opened.rec),
    rotation = (base.rotation or 0) + (answer.secrets.refresh_token ~= nil and 1 or 0),
    obtained_at = sent_at, expires_at = sent_at + life,
    fresh_until = math.floor(M.fresh_until(sent_at, life)),
    -- A refresh that says nothing of scopes grants what there was (RFC 6749 6).
    granted = granted_of(answer.granted) or base.granted,
    dropped_at = base.dropped_at, scopes = base.scopes, wanted = base.wanted, wanted_at = base.wanted_at,
    connected_at = base.connected_at, pasted = base.pasted, values = values_with(opened, base, answer.plain),
  }
end

-- A grant of another client or token address: kept, for the credential may be set back, and sent nowhere.
local function note_other_client(self, opened, state)
  local plain = copy(state)
  plain.final, plain.transient, plain.last_error, plain.error_detail = true, nil, "other_client", nil
  plain.error_why, plain.error_status = nil, nil
  plain.last_error_at, plain.error_version = self.time.wall(), opened.rec.version
  local ok, why = self.store.commit({
    { op = "put", db = "state", key = opened.name, plain = plain, keep = true, version = state.version },
    { op = "check", db = "credential", key = opened.name, version = opened.rec.version },
  }, self.time.now() + COMMIT_MAX)
  if not ok and why ~= "conflict" then
    self.pauses[opened.name] = { until_boot = self.time.boot() + 1000, code = "store" }
  end
end

-- Is there another record by now, or none?
local function stale(self, opened)
  local cred = self.store.peek("credential", opened.name)
  return not cred or cred.version ~= opened.rec.version
end

-- The detached task. Whatever happens to who asked for it, it ends by writing what it learnt.
local function refresh(self, opened)
  local name, time = opened.name, self.time
  local version = opened.rec.version
  self.acting(name)
  local state = look(self, name)
  if not state or stale(self, opened) then return end
  local boot, boot_id = time.boot(), time.boot_id()
  -- Between the wish and this task another worker may have done it, or failed at it.
  if standing_of(opened, state, time.wall()) == "fresh" or M.blocked(name, state, version, boot, boot_id) then
    return
  end
  if not M.ours(opened, state) and (state.secrets or {}).refresh_token then
    return note_other_client(self, opened, state)
  end
  local lease = self.store.get("lease", name)
  if M.lease_lives(lease, boot, boot_id) and lease.owner ~= self.owner then return end
  local held = take_lease(self, opened, state, lease)
  if not held then return end
  if time.boot() - held.boot > SEND_SLACK then
    local ops = { { op = "del", db = "lease", key = name, version = held.lease } }
    if held.state ~= state.version then     -- the intent goes too: nothing was sent
      ops[2] = { op = "put", db = "state", key = name, plain = copy(state), keep = true, version = held.state }
    end
    self.store.commit(ops, time.now() + COMMIT_MAX)
    return
  end
  local view = self.policy.record_view(opened.pol, opened.rec, values_of(state))
  local sent_at, deadline = time.wall(), time.now() + REFRESH_MAX
  -- The net itself keeps to the deadline: a refresh that outlived its lease could run twice.
  local net, seen = self.net_for(opened, deadline)
  local answer, code, detail = self.policy.refresh(opened.pol, view, net, deadline)
  if answer and (type(answer) ~= "table" or type(answer.secrets) ~= "table" or not next(answer.secrets)) then
    answer, code, detail = nil, "policy_failed", "refresh returned no secrets"
  end
  if not answer then
    -- A code of our own or a registered one. Whatever else a policy says is for the operator alone.
    code = tostring(code or "policy_failed")
    local words = code == "policy_failed" and detail or not detailed[code] and detail
    if not said[code] and not final_codes[code] and not transient_codes[code] and oauth.code(code) ~= code then
      code, words = "type_refused", code
    end
    return store_failure(self, opened, held, state, code, detail, {
      why = type(words) == "string" and M.words(self.policy, opened.pol, words, seen) or nil,
      status = seen and seen.status or type(detail) == "table" and math.tointeger(detail.status) or nil,
    })
  end
  if store_answer(self, opened, held, state, answer_plain(self, opened, state, answer, sent_at), answer.secrets) then
    self.log(("ev=refresh credential=%s ok=yes"):format(name))
    self.meter("refreshes", "ok")
  end
end

-- ---- who asks ------------------------------------------------------------------------------------

local function running(self, name)
  local task = self.inflight[name]
  return task ~= nil and task:state() == "running"
end

-- Starts a refresh unless one runs here or in another worker. true: it is over already (a command has no tasks).
local function kick(self, opened)
  local name = opened.name
  if running(self, name) then return end
  local pause = self.pauses[name]
  if pause then
    if self.time.boot() < pause.until_boot then return end
    self.pauses[name] = nil
  end
  local lease = self.store.get("lease", name)
  if M.lease_lives(lease, self.time.boot(), self.time.boot_id()) and lease.owner ~= self.owner then return end
  if not self.spawn then
    refresh(self, opened)
    return true
  end
  self.inflight[name] = self.spawn(function()
    local ok, why = pcall(refresh, self, opened)
    self.inflight[name] = nil
    if not ok then  -- a fault of ours or the policy's: not at once again, or the server would be asked without end
      self.pauses[name] = { until_boot = self.time.boot() + 60000, code = "policy_failed" }
      error(why, 0)
    end
  end)
end

--- The credential with a token that may be used: a view for `apply` [, nil, Unix s until which it need not be asked for
-- again, unless the state changes]. Waits until `deadline` only where there is no valid token. nil, code, { message, retry_after, error }; code "changed": open the credential anew.
function M:fresh(opened, deadline)
  local name, version, time = opened.name, opened.rec.version, self.time
  local looked = false
  while true do
    local state, why = look(self, name)
    if not state then
      if why ~= "damaged" and why ~= "locked" then return nil, "store_unavailable" end
      return nil, "injection_failed", { message = ("credential %s: its stored token is %s"):format(name, why) }
    end
    local standing = standing_of(opened, state, time.wall())
    if standing == "fresh" then return view_of(self, opened, state), nil, state.fresh_until end
    local code, info = M.blocked(name, state, version, time.boot(), time.boot_id())
    if standing == "valid" then
      if not code then kick(self, opened) end
      return view_of(self, opened, state)
    end
    if code then
      -- The failure may be a command's, or another worker's: this log's reader looks for it here.
      if self.told[name] ~= state.version then tell(self, opened, state) end
      self.told[name] = state.version
      return nil, code, info
    end
    if stale(self, opened) then return nil, "changed" end
    local over = kick(self, opened) and not looked
    looked = true
    if time.now() >= deadline then
      return nil, "injection_unavailable", { message = ("credential %s: its token is still being renewed"):format(name) }
    end
    local pause = self.pauses[name]
    if pause and not running(self, name) then
      return nil, pause.code == "store" and "store_unavailable" or "injection_unavailable", { retry_after = 1 }
    end
    if not over then time.sleep(running(self, name) and POLL_OWN or POLL_OTHER) end
  end
end

--- Does this answer of an upstream say that the token is dead? RFC 6750 3.1; a type may declare further statuses.
function M.says_expired(pol, status, www_authenticate, error_type)
  if status == 401 then return true end
  local code = type(error_type) == "string" and (error_type:match("^[%w.]*#(%w+)") or error_type:match("^%w+"))
  for _, s in ipairs(pol.expired or {}) do
    if s == status or s == code then return true end
  end
  if status ~= 403 or type(www_authenticate) ~= "string" then return false end
  return www_authenticate:lower():find("%f[%w_]error%s*=%s*\"?invalid_token%f[^%w_]") ~= nil
end

-- Changes plain members of the state as it was seen; somebody who was faster has made it void. A damaged or newer
-- state is left alone.
local function note(self, name, state, change)
  local plain = copy(state)
  change(plain)
  local ok = self.store.commit({
    { op = "put", db = "state", key = name, plain = plain, keep = true, version = state.version },
  }, self.time.now() + COMMIT_MAX)
  return ok == true
end

--- A person asks, who may just have mended what a refresh failed for: the next one need not wait. A grant that ended
-- stays as it is: asking again would not bring it back.
function M:again(opened)
  local state = look(self, opened.name)
  if not state or not state.error_version or state.final and opened.pol.connect then return end
  note(self, opened.name, state, function(plain) plain.error_version = nil end)
end

--- An upstream refused the token: it is dropped, unless it is new or one was dropped within the minute. One that
-- cannot be renewed is kept: a person would have to consent again for what may be a whim of one address.
function M:rejected(opened)
  local name, now = opened.name, self.time.wall()
  local state = look(self, name)
  if not state or standing_of(opened, state, now) == "none" then return false end
  if math.abs(now - state.obtained_at) < JUST_ISSUED then return false end
  if opened.pol.connect and not (state.secrets and state.secrets.refresh_token) then
    if state.refused_at and math.abs(now - state.refused_at) < DROP_EVERY then return false end
    note(self, name, state, function(plain) plain.refused_at = now end)
    return false
  end
  if state.dropped_at and math.abs(now - state.dropped_at) < DROP_EVERY then return false end
  local ok = note(self, name, state, function(plain) plain.dropped, plain.dropped_at = true, now end)
  if ok then self.log(("ev=token_dropped credential=%s"):format(name)) end
  return ok
end

-- ---- scopes that an API asks for -----------------------------------------------------------------

--- The scopes of a challenge that says insufficient_scope (RFC 6750 3.1; MCP's step-up): a list, perhaps empty; nil:
-- it says nothing of the kind. The header is the upstream's text: only what may be a scope (RFC 6749 3.3) is kept.
function M.insufficient(status, www_authenticate)
  if status ~= 403 or type(www_authenticate) ~= "string" then return nil end
  local bearer = challenge.bearer(www_authenticate)
  if not bearer or (bearer.error or ""):lower() ~= "insufficient_scope" then return nil end
  return oauth.scopes(bearer.scope or "", WANTED_MAX)
end

--- Two lists of scopes as one, each once, in order.
function M.union(a, b)
  local out, seen = {}, {}
  for _, list in ipairs { a or {}, b or {} } do
    for _, scope in ipairs(list) do
      if not seen[scope] then
        seen[scope] = true
        out[#out + 1] = scope
      end
    end
  end
  return out
end

--- Notes that an API asks for scopes that the grant does not have: for `credential show`, and for the next consent.
function M:wants(opened, scopes)
  local name, now = opened.name, self.time.wall()
  local state = look(self, name)
  if not opened.pol.connect or not state or state.version == 0 then return false end
  if state.wanted_at and math.abs(now - state.wanted_at) < DROP_EVERY then return false end
  local all = M.union(state.wanted, scopes)
  while #all > WANTED_MAX do all[#all] = nil end
  if state.wanted and #all == #state.wanted then return false end
  return note(self, name, state, function(plain) plain.wanted, plain.wanted_at = all, now end)
end

-- ---- a person's grant ----------------------------------------------------------------------------

local added = { version = true, id = true, epoch = true, secrets = true, sealed = true, unverified = true }   -- store.peek's
--- The operation by which what was sealed for a credential opens no more (its record's epoch moves): another grant comes, or
-- none is left, or another secret.
function M.moved(cred)
  local plain = {}
  for k, v in pairs(cred) do plain[k] = not added[k] and v or nil end
  return { op = "put", db = "credential", key = cred.name, version = cred.version, plain = plain, keep = true, moves = true }
end

--- Stores what a person's consent brought, over whatever was there: true | nil, code. A refresh that is in flight
-- finds another rotation and lets its answer go. with.build() -> an operation: the record that changes with the grant | nil; with.pasted: see the top;
-- with.more() -> operations that are committed with it (context: whose change it is) | nil.
function M:connected(opened, answer, sent_at, scopes, with)
  local name, until_ = opened.name, self.time.now() + CONNECT_STORE_MAX
  while true do
    local change = with and with.build and with.build()
    local cred = change and change.plain or self.store.peek("credential", name)
    if not cred then return nil, "absent" end
    if M.earner(opened.pol, cred) ~= M.earner(opened.pol, opened.rec) then return nil, "changed" end
    local base, damaged = self.store.get("state", name)
    if not base then base = damaged == "damaged" and { secrets = {} } or ABSENT end
    local plain = answer_plain(self, opened, { secrets = {}, rotation = base.rotation, pasted = with and with.pasted },
      answer, sent_at)
    plain.rotation = (base.rotation or 0) + 1
    plain.token_version, plain.scopes, plain.connected_at = change and change.version or cred.version, scopes, sent_at
    local ops = with and with.more and with.more() or {}
    -- A damaged record has no version that we know: a person's word replaces it.
    ops[#ops + 1] = { op = "put", db = "state", key = name, plain = plain, secrets = answer.secrets, version = base.version }
    ops[#ops + 1] = change or base.rotation and M.moved(cred) or { op = "check", db = "credential", key = name, version = cred.version }
    local ok, why = self.store.commit(ops, self.time.now() + COMMIT_MAX)
    if ok or (self.store.peek("state", name) or ABSENT).refresh_id == plain.refresh_id then return true end
    if self.time.now() >= until_ then return nil, why == "full" and why or "store" end
    if why ~= "conflict" then self.time.sleep(200) end
  end
end

--- Takes the lease for whoever will end or replace the grant: then nobody renews it meanwhile. There is room for an
-- answer from then on. -> the state | nil, code ("absent", "damaged": it is held all the same)
function M:hold(name, deadline)
  while true do
    local lease = self.store.get("lease", name)
    if not (M.lease_lives(lease, self.time.boot(), self.time.boot_id()) and lease.owner ~= self.owner) then
      local boot = self.time.boot()
      local ok, version = self.store.commit({ {
        op = "put", db = "lease", key = name, version = lease and lease.version or 0, room = ROOM,
        plain = { owner = self.owner, boot_id = self.time.boot_id(), until_boot_ms = boot + LEASE },
      } }, self.time.now() + COMMIT_MAX)
      if ok then
        self.held[name] = { lease = version, boot = boot }
        return self.store.get("state", name)
      end
      if version ~= "conflict" then return nil, version == "full" and version or "store" end
    end
    if self.time.now() >= deadline then return nil, "held" end
    self.time.sleep(POLL_OTHER)
  end
end

--- May what `hold` took still be used to send a refresh token? Later another may think us dead while we send.
function M:may_send(name)
  local held = self.held[name]
  return held ~= nil and self.time.boot() - held.boot <= SEND_SLACK
end

--- Forgets the grant that `hold` answered, and gives back the lease: true | nil, code. "changed": another grant has
-- come meanwhile (somebody connected), which stays. seen: nil: whatever is there, for a record that cannot be read.
function M:forget(name, seen)
  local until_ = self.time.now() + COMMIT_MAX
  while true do
    local now = seen and (self.store.get("state", name) or ABSENT)
    if now and (now.rotation ~= seen.rotation or now.refresh_id ~= seen.refresh_id) then
      self:release(name)
      if now.version == 0 then return true end
      return nil, "changed"
    end
    local cred = self.store.peek("credential", name)
    local ok, why = self.store.commit({
      { op = "del", db = "state", key = name, version = now and now.version }, { op = "del", db = "lease", key = name },
      cred and M.moved(cred),
    }, self.time.now() + COMMIT_MAX)
    if ok or why ~= "conflict" or self.time.now() >= until_ then return ok, why end
  end
end

--- Gives back what `hold` took, and leaves the grant. A lease that somebody took over since is theirs.
function M:release(name)
  local held = self.held[name]
  if not held then return true end
  self.held[name] = nil
  return self.store.commit({ { op = "del", db = "lease", key = name, version = held.lease } }, self.time.now() + COMMIT_MAX)
end

return M
