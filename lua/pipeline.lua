--- What happens to a request: who asks, what decides, what is attached. C calls connect, request, rejudge and
-- answer as tasks; each ends by telling `req` what to do, and C does it. lua/cli/decision.lua decides by the same code
-- and sends nothing.
--
-- pipeline.new{ config, tokens, policy, policies, sandbox, store, records, time, json, parse_url, path_readings, log,
-- known = request.known } -> one worker's pipeline; pipeline.serve(it) makes it the one that C reaches. tokens is nil
-- in a command that explains.
local doors = require "doors"
local carriers = require "carriers"
local errors = require "errors"
local paths = require "paths"
local recorder = require "recorder"
local ways = require "route"
local rows = require "rows"
local reading = require "reading"
local rules = require "rules"
local scrub = require "scrub"
local seal = require "seal"
local stand_in = require "stand_in"
local token = require "token"
local variables = require "variables"
local M = {}
M.__index = M

local WAIT_MAX = 15000      -- ms a request waits for the index or a token: one refresh and a second worker's try
local BODY_WAIT = 300000    -- ms for a body that a type must read whole; C's idle limit ends a stalled one sooner
local READY_MAX = 256       -- routes of one agent that go the short way
local DECIDE_TRIES = 3      -- while the store changes under the decision
local ECHO_HOST = "echo.sallyport.test"
local ECHO_MAX = 64 * 1024  -- bytes of a body that is shown
local OFF_NAMED = 5         -- disabled bundles that a hint names
local DISCOVER_MAX = 500    -- entries in one answer: it has to fit in 256 KiB
local SERVICES_MAX = 2000   -- the same by their hosts, ports and paths
local PAGE = 32             -- records read at once
local PAGES_MAX = 16        -- answers to /discover that are kept until something changes: 4 MB at most
local PAGE_TURN = 2000      -- ms that an agent's requests wait for the one that makes it; that one may have been given up
local PAGE_POLL = 5         -- ms between two looks
local ROOM_WAIT = 10000     -- ms for room among the bodies that are held: an SDK has not given up by then
local HEAVY = 65536         -- bytes of a body: reading it as JSON or against rows takes a millisecond or more
local QUIET = 300           -- ms without a body that is read
local GARBAGE = 4 << 10     -- KiB that are not left to the collector's own time
local ROOM_POLL = 20        -- ms between two looks; at most `requests` of an agent look
local HIDDEN = "__SALLYPORT_SECRET__"  -- in an answer's head, for what was attached where no placeholder stands for it
local SEALED_LOOK = 64 << 10 -- bytes of a body that is looked into for sealed texts where none opens
local HELD_SLICE = 128      -- placeholders derived between two yields: about 4 µs each
local REALMS_MAX = 100      -- of a credential: it may have a host for each of many names
local REALM_MS = 600 * 1000 -- what a host's challenge names holds for so long
local REALM_WAIT = 10000    -- ms for its answer
local DROPPED_MAX = 1000    -- placeholders that changed before an agent's set is made anew

local here                  -- the worker's pipeline; set once, before the first request

function M.new(with)
  local self = setmetatable({}, M)
  for _, name in ipairs { "config", "policy", "policies", "sandbox", "store", "records", "time", "json", "parse_url", "path_readings" } do
    self[name] = assert(with[name], name)
  end
  self.tokens = with.tokens
  self.known = with.known
  self.count = with.count or function(_, _, n) return n end     -- of rules (lua/counters.lua); a command that explains counts nothing
  self.pages = require("config").cache(PAGES_MAX)
  self.log = with.log or function() end
  return self
end

function M.serve(pipeline)
  here = pipeline
end

-- ---- deciding ------------------------------------------------------------------------------------

-- match.lua's answer, checked: it may be anybody's edit. An item must be one of ours, and in a bundle that the
-- agent holds; whatever else comes refuses the request.
-- own item, bundle, routed | nil, code, hint
local function decide(self, agent, found, question, trace)
  local config = self.config
  local ok, item, bundle, routed =
    self.sandbox.call("match", config.build.match.decide, found.list, question, trace)
  if not ok then
    self.log("ev=policy_failed policy=match err=" .. errors.quote(errors.place(item)))
    return nil, "policy_failed"
  end
  if item == nil and errors.codes[bundle] then
    return nil, bundle, type(routed) == "string" and routed or nil
  end
  local own = config:item(item)
  if not own or not agent.in_bundle[bundle] or not own.bundles[bundle] then
    self.log("ev=policy_failed policy=match err=\"answered what is not the agent's\"")
    return nil, "policy_failed"
  end
  return own, bundle, routed ~= false
end

-- Is this item of match.tunnel's one that may relay blindly?
local function relays(agent, own, bundle)
  return own and own.domain and own.domain.tunnel and own.bundles[bundle] and agent.in_bundle[bundle] or false
end

-- Does one of the agent's bundles have this entry?
local function holds(agent, own)
  for bundle in pairs(own.bundles) do
    if agent.in_bundle[bundle] then return true end
  end
  return false
end

-- What stands for this credential in a request of the agent's: { { text, field }… }, literal ones of its rows and
-- tokens that were answered in its server's place, or stand in its kubeconfig, too.
local function held_for(self, agent, name)
  local known = agent.placeholders
  if not known then
    known = {}
    agent.placeholders = known
  end
  local list = known[name]
  if not list then
    local rec = self.store.peek("credential", name)
    list = rec and self.records.held(agent.name, rec) or {}
    for _, row in ipairs(rec and rec.rows or {}) do
      if row.placeholder then list[#list + 1] = { text = row.placeholder, field = row.field } end
    end
    local pol = rec and self.policies.load(rec.type)
    if pol and not rec.env and pol.stand_in and pol.stand_in.format then
      list[#list + 1] = { text = stand_in.parts(self.records, agent.name, rec).access_token, file = true }
    elseif pol and pol.refresh then
      for _, text in ipairs(stand_in.shown(require "secret", self.records, agent.name, rec)) do
        list[#list + 1] = { text = text, field = "access_token", also = true }
      end
    end
    known[name] = list
  end
  return list
end

local function presents(self, req, agent, name)
  if req.recorded then return req.recorded(name) end      -- of a recording (cli/replay.lua)
  local does = req:presents(held_for(self, agent, name))
  if self.config.recording then recorder.presents(req, name, does) end
  return does
end

-- Is the request an answer's, told of, or does it wait: as req:log, which it tells what decided.
local function log_decided(self, req, log)
  if self.config.recording then recorder.decided(req, log) end
  return req:log(log)
end

-- The method as match.lua knows it. WEBSOCKET stands for the upgrade; a request that only calls itself so has a name
-- that no list holds.
local function method_of(method, websocket)
  if websocket then return "WEBSOCKET" end
  return method ~= "WEBSOCKET" and method or "(WEBSOCKET)"
end

-- Query names that make a request somebody else's unless they bear this credential's placeholder; false: none.
local function foreign_of(self, found, own)
  local names = found.foreign[own]
  if names == nil then
    local rec = not own.domain and self.store.peek("credential", own.name)
    local pol = rec and self.policies.load(rec.type)
    names = pol and not rec.attach and pol.foreign or false  -- with attach=placeholder that is told later
    found.foreign[own] = names
  end
  return names
end

local function names_any(query, names)
  local list = require("uri").parse_query(query) or {}
  for _, pair in ipairs(list) do
    for _, name in ipairs(names) do
      if pair[1]:lower() == name:lower() then return true end
    end
  end
  return false
end

-- Is the request presigned with another key than the placeholder this agent holds for the item's credential? Then it is
-- somebody else's, and to sign it again would break it.
local function foreign(self, found, agent, item, query)
  local own = self.config:item(item)
  local names = own and foreign_of(self, found, own)
  if not names or not names_any(query, names) then return false, names end
  for _, h in ipairs(agent.name and held_for(self, agent, own.name) or {}) do  -- explain may ask for nobody in particular
    if query:find(h.text, 1, true) then return false, names end
  end
  return true, names
end

-- `looked` is set once the answer depends on this one request: its path, its query, or what it presents.
local function question_of(self, req, agent, method, port, found)
  local question
  local query = req.query
  question = {
    method = method,
    tls = req.scheme == "https",
    port = port,
    readings = function(known)
      question.looked = true
      return paths.readings(self.path_readings, req.path, known)
    end,
    foreign = query and function(item)
      local is, names = foreign(self, found, agent, item, query)
      question.looked = question.looked or names ~= false
      return is
    end or nil,
    presents = function(item)
      question.looked = true
      local own = self.config:item(item)
      return own and not own.domain and presents(self, req, agent, own.name) or false
    end,
  }
  return question
end

-- Methods whose decisions are kept: a closed list, so that an agent cannot make it grow.
local KEPT = { GET = true, HEAD = true, OPTIONS = true, POST = true, PUT = true, PATCH = true, DELETE = true }

-- decide for a request. An answer that hung on method, scheme and port alone stands for this agent and host until
-- something changes, if match.lua says that it is pure.
local function decide_request(self, req, scheme, agent, found, skips)
  local method, port = method_of(req.method, req.websocket), req.port
  local kept = not skips and found.kept[method]
  if kept and kept.port == port and kept.scheme == scheme and not (kept.foreign and req.query) then return kept.own, kept.bundle, kept.routed, kept end
  local question = question_of(self, req, agent, method, port, found)
  question.skips = skips
  local own, bundle, routed = decide(self, agent, found, question)
  if own and not skips and not question.looked and KEPT[method] and self.config.build.match.pure then
    kept = { port = port, scheme = scheme, own = own, bundle = bundle, routed = routed, foreign = foreign_of(self, found, own) }
    found.kept[method] = kept
    return own, bundle, routed, kept
  end
  return own, bundle, routed
end

-- Is this request for one of the endpoints that the proxy alone talks to for this credential?
local function at_endpoint(self, opened, scheme, host, port, path)
  for _, e in ipairs(opened.endpoints) do
    if e.port == port and e.host == host and e.scheme == scheme then
      if e.paths[path] then return true end
      local readings = self.path_readings(path)
      if not readings then return true end  -- unreadable: who knows what the server makes of it
      for _, reading in ipairs(readings) do
        if e.paths[reading] or e.paths[reading:gsub("/+$", "")] then return true end
      end
    end
  end
  return false
end

-- Is there one at the request's host at all?
local function has_endpoint(opened, req)
  for _, e in ipairs(opened.endpoints) do
    if e.port == req.port and e.host == req.host and e.scheme == req.scheme then return true end
  end
  return false
end

-- Whatever match.lua says, a credential goes to the hosts that its record names: the last look, in our own words.
local function covers(rec, req, value_of)
  if rec.enabled == false or req.scheme == "http" and not rec.plain_http then return false end
  local host = req.host
  for _, written in ipairs(rec.hosts or {}) do
    if variables.covers(variables.host(written, value_of) or "", host) then return true end
  end
  return false
end

-- The decision for this request, with its credential opened. The index and the record must be of one version: a
-- new secret must not follow an old record's hosts.
-- own, bundle, routed, opened, plan, kept (decide_request's, if it is one) | nil, code, message, hint
local function judge(self, req, agent, deadline, skips)
  local host, scheme = req.host, req.scheme
  for _ = 1, DECIDE_TRIES do
    local found = self.config:candidates(agent, host)
    if not found then return nil, "policy_failed" end
    local own, bundle, routed, kept = decide_request(self, req, scheme, agent, found, skips)
    if not own then return nil, bundle, nil, routed end
    local plan = found.plans[own]
    if not plan then
      local credential = not own.domain
      plan = {
        log = {
          agent = agent.name, requests = agent.requests, bundle = bundle, credential = credential and own.name or nil,
          decision = "allow",
          reason = credential and "credential" or "domain " .. own.name,
        },
        forward = { addresses = own.domain and own.domain.addresses, tls = own.domain and own.domain.tls },
        echo = host == ECHO_HOST,
      }
      found.plans[own] = plan
    end
    if own.domain then return own, bundle, routed, nil, plan end
    local opened, code, why = self.config:open(own.name)
    if not opened and code ~= "injection_failed" or opened and opened.version == own.version then
      if not opened then
        self.log(("ev=policy_failed credential=%s err=%s"):format(own.name, errors.quote(why)))
        return nil, code, ("credential %s: its type failed"):format(own.name)
      end
      if plan.covered ~= scheme and not covers(opened.rec, req, self.config:variables(agent, bundle)) then
        self.log("ev=policy_failed policy=match err=\"answered a credential for a host that it does not name\"")
        return nil, "policy_failed"
      end
      plan.covered = scheme
      if opened.wants then
        opened, code, why = self.config:filled(opened, agent, bundle)
        if not opened then return nil, code, ("credential %s: %s"):format(own.name, tostring(why)) end
      end
      return own, bundle, routed, opened, plan, kept
    end
    local synced, lost = self.config:sync(deadline)
    if not synced then return nil, lost end
    local now = agent.kind == "tenant" and self.config:agent_named(agent.name) or self.config:agent(req.token)
    if now ~= agent then return nil, "changed" end
    if not opened and self.config:item { id = "credential/" .. own.name } == own then
      return nil, code, ("credential %s: %s"):format(own.name, tostring(why))
    end
  end
  return nil, "store_unavailable"
end

--- Does one of these hosts, variables filled in, name this very host?
function M.names_exactly(hosts, host, value_of)
  for _, written in ipairs(hosts or {}) do
    if variables.host(written, value_of) == host then return true end
  end
  return false
end

-- ---- refusing ------------------------------------------------------------------------------------

-- Can this agent ask a person for more (lua/proposals.lua)?
local function can_propose(agent)
  return agent.kind ~= "tenant" and agent.first ~= nil and not (agent.off or {})[agent.first]
end

-- How it asks, in the words of agents that know it from elsewhere.
local PROPOSAL_HINT = ',"proposal_hint":{"host":%s,"endpoint":"POST /v1/proposals","supported_auth_types":["bearer","basic","api-key","custom","passthrough"]}'

local function refuse(req, agent, code, message, hint, options)
  if agent then require("webhook").refused(agent.name) end
  req:log { agent = agent and agent.name, decision = "deny", reason = code }
  if code == "host_not_allowed" and agent then
    local can = can_propose(agent)
    if can then options = { more = PROPOSAL_HINT:format(require("json").encode(req.host)) } else hint = hint or errors.LIST end
  end
  return errors.fail(req, code, message, hint, options)
end

-- The agent that asks | nil, how its token ended, whose it was: as config:agent.
local function asking(self, token)
  if not token then return nil end
  return self.config:agent(token)
end

-- A vault is a bundle, to clients that name one: beside the token, or to the proxy itself as X-Vault. The name, where the agent holds
-- it | nil: none is named | nil, code. What stands beside the token may be anything (`TOKEN:x` is what clients send that want
-- a password): it names a vault where a bundle is called so.
local function vault_of(self, req, agent)
  local function there(name) return self.records.name(name) and self.store.peek("bundle", name) end
  local function held(name) return agent.in_bundle[name] or agent.off[name] end
  local named = req.vault and there(req.vault) and req.vault
  if named and not held(named) then return nil, "forbidden" end
  local field = req.form == "origin" and req:view().headers:get("x-vault")
  if field and not held(field) then return nil, there(field) and "forbidden" or "vault_not_found" end
  return field or named
end

-- 407 where the client can still answer it; inside a tunnel it would not look, so 403 and the end. Who shows a token
-- that was good once is told how it ended; a record names whose it was.
local function unknown(req, how, name)
  local code = how and "agent_" .. how or "agent_unknown"
  req:log { decision = "deny", reason = code, ended = name }
  if req.form ~= "tunnel" then return errors.challenge(req, code) end
  if how == "disabled" then
    return errors.fail(req, "agent_unknown", ("the agent %s is disabled"):format(name),
      ("its token is good again once the operator enables it: sallyport agent enable %s"):format(name), { close = true })
  end
  return errors.fail(req, "agent_unknown", how and "this agent's token has ended: it was " .. how, nil, { close = true })
end


local function allowed_message(code, req)
  if code == "host_not_allowed" then return ("%s:%d is not allowed for this agent"):format(errors.host(req.host), req.port) end
  if code == "service_disabled" then return ("what allows %s is disabled"):format(errors.host(req.host)) end
  if code == "method_not_allowed" then
    return ("%s is not allowed on this path of %s"):format(req.websocket and "WebSocket" or "this method", errors.host(req.host))
  end
  if code == "path_not_allowed" then return ("this path of %s is not allowed for this agent"):format(errors.host(req.host)) end
end

-- The hint of host_not_allowed. Who holds bundles that give nothing for now is told that, too. hint: match's own | nil
local function off_hint(agent, hint)
  local names = {}
  for name in pairs(agent.off or {}) do names[#names + 1] = name end
  if not names[1] then return hint end
  table.sort(names)
  local more = #names - OFF_NAMED
  return ("%s; disabled among this agent's bundles: %s%s; the operator can enable them: sallyport bundle enable %s"):format(
    hint or can_propose(agent) and errors.codes.host_not_allowed[3] or errors.LIST, table.concat(names, ", ", 1, math.min(#names, OFF_NAMED)),
    more > 0 and (" and %d more"):format(more) or "", names[1])
end

local function refuse_decided(self, req, agent, code, message, hint)
  if not message then message = allowed_message(code, req) end
  if hint then hint = hint .. "; " .. errors.LIST end
  if code == "host_not_allowed" then hint = off_hint(agent, hint) end
  return refuse(req, agent, code, message, hint)
end

-- ---- attaching -----------------------------------------------------------------------------------

local body_codes = {
  too_large = "body_too_large", no_memory = "injection_unavailable", malformed = "bad_request", eof = "bad_request",
  timeout = "bad_request",
}
local body_messages = { no_memory = "the proxy has no room for another request body right now" }

-- Everybody else has a turn; then it is this request's, if no other one had a heavy piece of work in this turn of the loop.
local function take_turns(self)
  self.time.sleep(0)
  while self.heavy_at == self.time.now() do self.time.sleep(1) end
  self.heavy_at = self.time.now()
end

--- The strings that large bodies were stay until the collector gets to them, which may be never: once no body has been
-- read for a while they go. Called at each tick.
function M.tidy()
  local held, now = collectgarbage("count"), here.time.now()
  if here.read_at and now - math.max(here.read_at, here.heavy_at or 0) >= QUIET then
    here.read_at = nil
    if held - here.least > GARBAGE then
      collectgarbage()
      held = collectgarbage("count")
      here.least = held
    end
  end
  here.least = math.min(here.least or held, held)
end

-- For who must read a body whole: true | nil, why. While this agent's share of the room, or all of it, is taken, it waits.
local function read_whole(self, req, max)
  local now, till = self.time.now, nil
  while true do
    local at = now()
    till = till or at + ROOM_WAIT
    local ok, why = req:read_body(max, at + BODY_WAIT)
    if ok then
      self.read_at = now()
      local code, message, hint, options = reading.settle(req, self.time)
      if code then return false, { code, message, hint, options } end
    end
    if ok or why ~= "no_memory" or now() >= till then return ok, why end
    self.time.sleep(ROOM_POLL)
  end
end

-- Who wants the body: { most = bytes, or nil for body-max, why = what for, instead = what to do instead, or nil }.
local function wants(self, needs, most, why, instead)
  local max = math.min(most or self.config.body_max, self.config.body_max)
  if not needs.max or max > needs.max then
    needs.max, needs.own, needs.why, needs.instead = max, max < self.config.body_max, why, instead
  end
end

-- code, message, hint, options of a body that was not read. `who`: "credential x" or "domain y"; `mend`: the operator's
-- command where the limit is not body-max.
local function body_refused(self, req, why, needs, who, mend)
  if type(why) == "table" then return why[1], why[2], why[3], why[4] end       -- a rule that reads it refuses it
  local code, records = body_codes[why] or "bad_request", require "records"
  if why ~= "too_large" then return code, body_messages[why], nil, why == "no_memory" and { retry_after = 1 } or nil end
  local size, most = req.length or needs.max + 1, records.BODY_MOST
  local limit = records.show_size(needs.max) .. (needs.own and "" or " (body-max)")
  local message = ("the body %s, more than the %s that are read whole for %s: %s"):format(
    req.length and ("has %d bytes"):format(size) or "goes on", limit, who, needs.why)
  local more = needs.max
  while more < size and more < most do more = math.min(2 * more, most) end
  local can = needs.own and mend or not needs.own and more >= size and needs.max < most
    and "sallyport set body-max " .. records.show_size(more) or nil
  return code, message, (needs.instead or "send less at once") .. (can and "; the operator can allow more: " .. can
    or "; more cannot be allowed")
end

local MALFORMED = "the body is not what its Content-Type says, or has a member twice, so no placeholder in it can be replaced"

-- What `seal revoke` moves, as one number that is not 0: a stream keeps it, and ends once it is another.
local function epochs_of(agent, rec) return agent.epoch ~ (rec.epoch << 1) | 1 << 62 end

-- One answer for every text that does not open, whatever of it was changed and whosever it is.
local SHUT = "this sealed text does not open: it was cut or changed, it was sealed for another agent or on another machine, or what it "
  .. "was sealed for has ended"

-- Rows that put the secrets where their sealed texts stand; what is attached keeps off there. Bound to what agent and
-- credential are now: no other text opens. nil | code, message
local function unseal(self, agent, opened, sealed, list)
  local places, epochs = self.config.places, epochs_of(agent, opened.rec)
  local bound = { agent = agent.id, agent_epoch = agent.epoch, credential = opened.rec.id, credential_epoch = opened.rec.epoch }
  for _, text in ipairs(sealed) do
    local value = require("request").unseal(text.text, bound)
    local place, name = text.place[1], text.place[2]
    if not value then return "sealed_elsewhere", SHUT end
    list[#list + 1] = { text.text, value, places[place], name, nil, nil, epochs }
    if name == "authorization" and place == "header" then list[#list + 1] = { text.text, value, places.basic, nil, nil, nil, epochs } end
  end
end

-- Where the client wrote a placeholder, the rows put the secret: before `apply`, so that nothing is replaced in what
-- that attaches. true | nil, code, message. Without an agent, in a trial, "{FIELD}" stands for a field, too. sealed:
-- `sealed_in`'s.
local function substitute(self, req, agent, opened, cred, patient, sealed)
  local list, held = {}, agent and held_for(self, agent, opened.name) or {}
  local places = self.config.places
  if sealed then
    local code, message = unseal(self, agent, opened, sealed, list)
    if code then return nil, code, message end
  end
  local kind, body, parts = rows.looks(opened, req, places), nil, nil
  -- In UTF-7 or EBCDIC, or by the other of two types, a server reads other names than stand there.
  local why = kind and require("body").of(req:view().headers).why
  if kind == "part" or why then body = req:view().body end
  if body and not why then
    parts = rows.parts(req:view().headers:get("content-type"), body, patient and function() take_turns(self) end or nil)
  end
  for _, row in ipairs(not (sealed and sealed.alone) and opened.rows or {}) do
    local value = row.secret or row.token and cred.state and cred.state[row.token]
    local texts = agent and rows.texts(row, held) or { "{" .. row.field .. "}", row.placeholder }
    for _, text in ipairs(value and texts or {}) do
      if body and not parts and body:find(text, 1, true) then return nil, "bad_request", MALFORMED end
      if not why or row.place ~= places.json and row.place ~= places.form then rows.apply(row, text, value, req.path, parts, list) end
    end
  end
  local ok, where = req:substitute(list)
  if ok then return true end
  if where == "malformed" then
    return nil, "bad_request", MALFORMED
  end
  return nil, "injection_failed",
    ("injection failed (\"%s\"): what the placeholder stands for cannot be written into the %s"):format(opened.name, where)
end

-- The secrets of a credential that an answer must not repeat, those of them that a machine made, and what the answer gets
-- for them: what the agent holds, or a mark. Made once for a view: that of a token is another with each token.
local function hidden_of(self, agent, opened, cred)
  local hidden = opened.hidden
  if not hidden or opened.hidden_of ~= cred then
    hidden = { {}, {} }
    for name, s in pairs(opened.rec.secrets or {}) do
      if name ~= "c/client_key" then table.insert(hidden[scrub.made(opened.pol, name) and 2 or 1], s) end   -- it never goes out
    end
    for _, s in pairs(cred.state or {}) do
      if type(s) == "userdata" then table.insert(hidden[2], s) end
    end
    opened.hidden, opened.hidden_of = hidden, cred
  end
  local held = agent and held_for(self, agent, opened.name)[1]
  return hidden[1], hidden[2], held and not held.file and held.text or HIDDEN
end

-- Set before `apply`, for a type that signs them, and after it, for they have the last word.
local function set_extra(req, opened)
  local headers = req:view().headers
  for _, h in ipairs(opened.extra) do headers:set(h[1], h[2]) end
end

-- The type's `apply` and the credential's further headers. true | nil, code, message. `frank`: for the operator's
-- eyes, with the policy's own words; an agent is never shown them. `view`, `patient`: policy.apply's. sealed: `sealed_in`'s.
local function inject(self, req, agent, opened, cred, view, frank, patient, sealed)
  self.config.acting(opened.name)
  local pol = opened.pol
  local ok, code, message
  req:scrub(opened.rec.scrub)
  if opened.rows or sealed then
    ok, code, message = substitute(self, req, agent, opened, cred, patient, sealed)
    if not ok then return nil, code, message end
    if sealed and sealed.alone then return true end
  end
  local extra = opened.extra[1] ~= nil
  if extra then set_extra(req, opened) end
  ok, code, message = self.policy.apply(pol, req, cred, view, patient)
  if not ok then
    -- its own words may quote the request: the log has the line that says them
    local told = code == "policy_failed" and message or self.policy.placed(pol, message, "apply")
    self.log(("ev=%s credential=%s policy=%s err=%s"):format(code, opened.name, pol.name, errors.quote(errors.place(told))))
    if code == "policy_failed" then
      message = "its type " .. pol.name .. " failed" .. (frank and ": " .. tostring(message) or "")
    end
    if code == "bad_request" then
      return nil, code, ("credential %s: %s"):format(opened.name, message), "send the request so that its credential fits in"
    end
    return nil, code, ("injection failed (\"%s\"): %s"):format(opened.name, tostring(message))
  end
  if extra then set_extra(req, opened) end
  if not req:hide(hidden_of(self, agent, opened, cred)) then
    return nil, "injection_failed", ("credential %s: its secrets are too many to keep them from an answer"):format(opened.name)
  end
  return true
end

local function mint_message(name, what, how)
  local say = how == "unread" and "this is a GraphQL operation whose text is not in the request (a persisted query?), and may make"
    or "this would make"
  return ("%s %s, which the credential %s may not"):format(say, what, name)
end
-- `rows`: those of `seal` that the request may meet, too.
local function mint_hint(name, rows)
  local hint = ("the operator can allow it: sallyport credential set %s mint=allow"):format(name)
  return rows and hint .. "; mint=seal: the agent gets a text that opens here alone" or hint
end

-- Adds to a set what the agent holds for this credential. `shapes`: config's; nil: it has none any more.
local function learn_one(self, agent, set, name, shapes)
  if shapes and holds(agent, shapes) then return self.records.learn(set, agent.name, name, shapes.of) end
end

-- The few that changed since, in place. false: they are too many, or so many were changed before that the set is full of
-- what stands for nothing.
local function learn_news(self, agent, build)
  if agent.known_of ~= build or not build.held_news[agent.known_at + 1] then return false end
  agent.known = agent.known or self.known()
  for at = agent.known_at + 1, build.held_at do
    local name = build.held_news[at]
    if agent.known:drop(name) > DROPPED_MAX then return false end
    learn_one(self, agent, agent.known, name, build.held[name])
    agent.known_at = at
  end
  return true
end

-- The placeholders of all credentials that the agent holds, for C to look for in a request: made a slice at a time, and
-- by all tasks that wait for it together. false: they changed meanwhile.
local function learn(self, agent)
  local build = self.config.build
  if not self.known or not build or agent.known_at == build.held_at and agent.known_of == build then return true end
  if learn_news(self, agent, build) then return true end
  local new = agent.learning
  if not new or new.of ~= build or new.at ~= build.held_at then
    new = { of = build, at = build.held_at, set = self.known() }
    agent.learning = new
  end
  while not new.done do
    for _ = 1, HELD_SLICE do
      local name, shapes = next(build.held, new.last)
      new.last, new.done = name, name == nil
      if new.done then break end
      learn_one(self, agent, new.set, name, shapes)
    end
    if not new.done then self.time.sleep(0) end
    if self.config.build ~= build or build.held_at ~= new.at then return false end
  end
  agent.known, agent.known_of, agent.known_at, agent.learning = next(build.held) and new.set, build, new.at, nil
  return true
end

-- Does this credential go there for this agent, through any bundle that gives it?
local function belongs(self, agent, rec, req)
  for _, bundle in ipairs(rec.bundles or {}) do
    if agent.in_bundle[bundle] and covers(rec, req, self.config:variables(agent, bundle)) then return true end
  end
  return false
end

-- The record, with the hosts of the operator's --seal-host and of this row (nil: of all) beside its own.
local function reach_of(rec, row, all)
  local hosts = table.move(rec.hosts or {}, 1, #(rec.hosts or {}), 1, {})
  table.move(rec.seal_hosts or {}, 1, #(rec.seal_hosts or {}), #hosts + 1, hosts)
  for _, r in ipairs(row and { row } or all or {}) do table.move(r.hosts, 1, #r.hosts, #hosts + 1, hosts) end
  return setmetatable({ hosts = hosts }, { __index = rec })
end

-- Is a placeholder of another credential left in the request? It belongs to hosts of its own, and whoever sent it here
-- was mistaken, or made to. code, message, hint | nil
local function astray(self, agent, req, opened, first, ...)
  if first == nil then return nil end
  local rec = first ~= opened.name and self.store.peek("credential", first)
  if not rec or belongs(self, agent, rec, req) then return astray(self, agent, req, opened, ...) end
  local hosts = table.concat(rec.hosts or {}, ", ", 1, math.min(#(rec.hosts or {}), 5))
  return "host_not_allowed",
    ("this request carries the placeholder of credential %s (%s), which does not go to %s"):format(rec.name, rec.env, errors.host(req.host)),
    ("it belongs to %s: take it out of the path, query and headers"):format(hosts)
end

local UNSET = "this machine's clock is not set, so that nobody knows when a sealed text ends"
local function unset(now) return now < require("host").build_time - 2 * 86400 end

-- Would this request bring the agent a key of its own? nil: it may go on; nil, rows: its answer is sealed | code, message, hint
local function minted(self, opened, q, view, cred)
  local rows = opened.preset_mint
  local what, code, message
  if rows then what, code = require("mint").find(rows, q) end
  if not what then
    self.config.acting(opened.name)
    what, code, message = self.policy.mint(opened.pol, q, view, cred)
  end
  if what == nil then
    self.log(("ev=%s credential=%s policy=%s err=%s"):format(code, opened.name, opened.pol.name,
      errors.quote(errors.place(message))))
    return code, ("credential %s: its type %s failed"):format(opened.name, opened.pol.name)
  end
  local becomes, detail = seal.judge(opened.seal_rows, opened.rec.mint, q, what or nil)
  if becomes == "refuse" then
    return "mint_denied", mint_message(opened.name, detail, code),
      mint_hint(opened.name, opened.seal_rows and opened.rec.mint ~= "seal" and require("mint").met(opened.seal_rows, q)[1])
  end
  return nil, becomes and detail or nil
end

-- ---- rules ---------------------------------------------------------------------------------------

-- A request that is decided anew, for it waited, is counted once: a rule's n-th look at a counter is that of the first time. with: what its
-- rules get; with.req, with.times: of the request that is asked about.
local counted = setmetatable({}, { __mode = "k" })      -- request -> { [name and place] = what it was }
local function look(key, window, times)
  local at = key .. "\n" .. window
  times[at] = (times[at] or 0) + 1
  return at .. "\n" .. times[at]
end

local function counter(self, with)
  return function(key, window, n, owner, kept)
    with.times = with.times or {}
    local at, seen = look(key, window, with.times), counted[with.req]
    if not (seen and seen[at]) then
      local is = self.count(key, window, n, owner, kept)
      if not is then return nil end
      seen = seen or {}
      counted[with.req], seen[at] = seen, is
    end
    return seen[at]
  end
end

-- The same of looks that were noted: { name, window, what it was } of each, n values in all. nil: there were none
local function counts_of(looks, n)
  local out, times = {}, {}
  for i = 1, n, 3 do out[look(looks[i], looks[i + 1], times)] = looks[i + 2] end
  return n > 0 and out or nil
end

-- What the rules of a bundle get beside the request (rules.ask).
local function rules_with(self, agent, bundle, name)
  local with = { agent = agent.name, bundle = bundle, credential = name,
    warn = function(rule, text) self.log(("ev=rule_warning rule=%s text=%s"):format(rule.name, errors.quote(text))) end }
  with.count = counter(self, with)
  return with
end

-- May the answer to this request list an MCP server's tools? It is JSON, or a stream of events, then.
local function lists_tools(req, view)
  local method = req.method:upper()
  return method == "POST" and req.has_body or method == "GET" and (view.headers:get("accept") or ""):lower():find("text/event-stream", 1, true) ~= nil
end

-- What a push asks for: the beginning of its body is read, and the rest streams on. -> pktline.parse's | nil, why nobody can read it |
-- false, code, message
local function pushed(self, req, view, of)
  local pktline = require "pktline"
  if of.encoded then return nil, of.why end
  local n, now = pktline.STEP, self.time.now
  while true do
    local ok, text = req:read_body(n, now() + BODY_WAIT, "begin")
    if not ok then return false, body_codes[text] or "bad_request", body_messages[text] end
    text = text or view.body or ""
    local push, why = pktline.parse(text)
    if push or why then return push, why end
    if req.body_read then return nil, "the commands of this push do not end" end
    if #text >= pktline.MAX then return nil, "the commands of this push are over 1 MiB" end
    n = math.min(2 * math.max(n, #text), pktline.MAX)
  end
end

-- What rules with a reader look for in the body, which is read before they are asked where it is short enough to be held:
-- { of = body.of's, reader = nil: none of theirs reads such a body, why = it cannot be read, late = they are asked once its end has
-- come } | nil, code, message, hint, options
local function read_members(self, req, view, list)
  local of, members, hold = require("body").of(view.headers), {}, 0
  for _, rule in ipairs(list) do
    local own, why = rules.members(rule, self.sandbox.call)
    if not own then return nil, "rule_failed", ("rule %s: its script failed"):format(rule.name), nil, { trouble = why } end
    if not of.why and rule.pol.reads[of.kind] then table.move(own, 1, #own, #members + 1, members) end
    local most = rule.pol.asks and self.config.body_max or rule.pol.body and rule.pol.body.max or rule.pol.body and self.config.body_max
    hold = math.max(hold, most and math.min(most, self.config.body_max) or reading.HOLD)
  end
  if not members[1] then return { of = of } end
  -- Of a form that is sent in chunks nothing but their terminator would be left to hold back, once no more can come.
  local endless = of.kind == "form" and not req.length
  hold = endless and self.config.body_max or hold
  local reader, n, now = reading.new(of.kind, members, of.boundary), reading.HOLD, self.time.now
  while not req.body_read and not (req.length and req.length > hold) do
    n = math.min(math.max(n, req.length or 0), hold)
    local ok, why = req:read_body(n, now() + BODY_WAIT, "begin")
    if not ok then return nil, body_codes[why] or "bad_request", body_messages[why], nil, why == "no_memory" and { retry_after = 1 } or nil end
    if n == hold then break end
    n = 2 * n
  end
  if not req.body_read and endless then
    return nil, body_refused(self, req, "too_large", { max = hold, why = "it is a form of which no length is given" }, "rule " .. list[1].name)
  end
  if not req.body_read then return { of = of, reader = reader, late = {} } end
  self.read_at = now()
  local _, why = reading.whole(reader, view.body or "", function() take_turns(self) end)
  return { of = of, reader = reader, why = why, whole = true }
end

-- What these rules read of the body: { reader = one that reads it whole, needs = wants', pushes = is one asked about pushes?,
-- streams = those that a reader reads it for }
local function reads_of(self, req, list)
  local out = { needs = {}, pushes = false, streams = {} }
  for _, rule in ipairs(list) do
    local pol = rule.pol or {}
    out.pushes = out.pushes or pol.reader ~= nil
    if pol.members then
      out.streams[#out.streams + 1] = req.has_body and rule or nil
    elseif pol.body and req.has_body then
      out.reader = rule
      wants(self, out.needs, pol.body.max, ("rule %s reads it"):format(rule.name))
    end
  end
  return out
end

-- Waits for it. readings() -> of the path. { push = | why =, members = } | nil, code, message, hint, options
local function read_for(self, req, view, reads, readings)
  local reader, needs, out = reads.reader, reads.needs, {}
  if reader then
    local ok, why = read_whole(self, req, needs.max)
    if not ok then
      return nil, body_refused(self, req, why, needs, "rule " .. reader.name, ("sallyport policy edit %s (body = { max })"):format(reader.type))
    end
    if (req.length or needs.max) > HEAVY then take_turns(self) end
  end
  if reads.pushes and require("pktline").wanted(req, readings()) then
    reads.of = reads.of or require("body").of(view.headers)     -- of all that one decision is kept for
    local push, why, told = pushed(self, req, view, reads.of)
    if push == false then return nil, why, told end
    out.push, out.why = push, why
  end
  if reads.streams[1] then
    local members, code, message, hint, options = read_members(self, req, view, reads.streams)
    if not members then return nil, code, message, hint, options end
    out.members = members
  end
  return out
end

-- What this rule is told of the body, and nothing that another one, or an earlier request, was told.
local function shows(seen, rule, view, reader, members)
  local pol = rule.pol
  seen.body = pol and pol.body and (reader or members and members.whole) and view.body or nil
  if members then seen.found = pol and pol.members and rules.found(rule, members.of, members.reader, members.why) or nil end
end

local LATE = "rule %s: a person is to be asked about it, and this body is over body-max, so it cannot be held meanwhile"
local LESS = "send less at once; the operator can allow more: sallyport set body-max SIZE"

-- A rule's word is told to the log. code, message, hint, options
local function ruled_out(self, req, agent, rule, code, message, hint, options)
  if code == "rule_failed" then
    self.log(("ev=rule_failed rule=%s policy=%s err=%s"):format(rule.name, rule.type, errors.quote(errors.place(options and options.trouble or message))))
  end
  req:log { agent = agent, decision = "deny", reason = "rule " .. rule.name }
  return code, message, hint, options
end

-- Asks those rules that read a body which streams, once they can be. why: it cannot be read. nil | code, message, hint, options
local function ask_late(self, req, members, seen, shown, then_, why)
  local with = { agent = then_.agent, bundle = then_.bundle, credential = then_.credential, warn = then_.warn, count = then_.count, memos = then_.memos }
  seen.body = nil
  for _, rule in ipairs(members.late) do
    seen.found = rules.found(rule, members.of, members.reader, why)
    local code, message, hint, options = rules.ask(rule, self.sandbox.call, shown, with)
    if code == "approval_timeout" then code, message, hint, options = "body_too_large", LATE:format(rule.name), LESS, nil end
    if code then return ruled_out(self, req, nil, rule, code, message, hint, options) end
  end
end

-- The answer where a rule refused: git reads one of its own.
local function fail_ruled(self, req, code, message, hint, options)
  recorder.note(req, "code", code)      -- a push is answered without errors.fail
  local push = options and options.push
  if push and require("pktline").answer(req, push, code, message, hint, self.time.now) then return end
  return errors.fail(req, code, message, hint, options)
end

-- A rule wants a person's word: approvals.ask, with the body read. seen: what it saw. code, message, hint, options | nil: it goes on
local function ask_person(self, req, agent, bundle, name, rule, what, seen)
  if req.has_body then
    local needs = {}
    wants(self, needs, nil, ("a person is asked about it, by the rule %s"):format(rule.name))
    local ok, why = read_whole(self, req, needs.max)
    if not ok then return body_refused(self, req, why, needs, "rule " .. rule.name) end
  end
  return require("approvals").ask(self, req, agent, bundle, name, rule, what, seen, name and held_for(self, agent, name) or {})
end

local judge_method      -- stands below, with its kind

-- A rule is asked about other methods than POST alone, and the body of this POST could name one of those (`_method`, a batch). Is it one?
-- nil | code, message, hint, options
local function hides_method(self, req, rule, methods)
  local body, needs = require "body", {}
  local of = body.of(req:view().headers)
  if not (of.form or of.json or of.multipart) then return nil end
  local why = body.unreadable(of)
  if why then return "rule_denied", ("rule %s: %s, so it may name another method"):format(rule.name, why) end
  wants(self, needs, nil, ("the rule %s is asked about some methods, and a body may name one of them"):format(rule.name))
  local ok, failed = read_whole(self, req, needs.max)
  if not ok then return body_refused(self, req, failed, needs, "rule " .. rule.name) end
  local code, message = judge_method(self, req, of, setmetatable({}, { __index = function(_, m) return not methods[m] end }))
  if code then return "rule_denied", ("rule %s: %s"):format(rule.name, message) end
end

-- What the bundle's rules say of a request that was decided. nil: it has none at this host; false: it goes on, and what would make a server
-- see another method or path than they did, or would have been asked about, must go | code, message, hint, options. It waits where one reads the body. `blind`:
-- a tunnel, in which nobody sees anything. "asked": a person answered meanwhile, and all is decided anew.
local function ruled(self, req, agent, bundle, name, deadline, blind)
  local list, generation = self.config:rules(bundle), self.config.applied
  if list == nil then return "rule_failed", "the rules of the bundle cannot be read", "the operator mends it: sallyport doctor" end
  if not list then return nil end
  list = rules.at(list, req.host)
  if not list[1] then return nil end
  local question = {
    method = blind and "CONNECT" or method_of(req.method, req.websocket), host = req.host,
    readings = function() return not blind and paths.readings(self.path_readings, req.path) or nil end,
  }
  local asked = {}
  reading.forget(req)
  if self.followed then self.followed.again(req) end
  local hidden, methods = nil, {}
  for _, rule in ipairs(list) do
    if rules.covers(rule, question) then
      asked[#asked + 1] = rule
      local pol = rule.pol
      if blind and pol and (pol.body or pol.reader or pol.members or pol.on_response and not pol.answer) then
        return "rule_denied", ("rule %s: it reads bodies or answers, and nobody can see what goes through a tunnel"):format(rule.name)
      end
    elseif question.method:upper() == "POST" and req.has_body and rule.methods and not blind and rules.covers(rule, question, true) then
      hidden = hidden or rule
      for _, m in ipairs(rule.methods) do methods[m] = true end
    end
  end
  if hidden then
    local code, message, hint, options = hides_method(self, req, hidden, methods)
    if code then
      req:log { agent = agent.name, decision = "deny", reason = "rule " .. hidden.name }
      return code, message, hint, options
    end
  end
  if not asked[1] and not hidden then return false end
  local view, reads = req:view(), reads_of(self, req, asked)
  local got, code, message, hint, options = read_for(self, req, view, reads, question.readings)
  if not got then return code, message, hint, options end
  local push, why, members, reader = got.push, got.why, got.members, reads.reader
  local as, through = req, view
  if members and members.late then as, through = rules.still(req, view) end
  local seen, shown, now = rules.request(as, question, through)
  seen.pushed = push or why
  if seen.pushed then recorder.note(req, "push", push and { commands = push.commands, options = not push.options[1] and {} or nil } or why) end
  local with = rules_with(self, agent, bundle, name)
  with.req, with.count = req, recorder.counting(req, with.count)
  for _, rule in ipairs(asked) do
    now.asked = rule
    local answers = rule.follows and require("answers") or nil
    self.followed = self.followed or answers
    with.memos = answers and answers.memos(req) or with.memos
    local late = members and members.late and rule.pol and rule.pol.members and (not members.reader or rule.pol.reads[members.reader.kind])
    if late then
      members.late[#members.late + 1], code = rule, nil
    else
      shows(seen, rule, view, reader, members)
      if seen.found then recorder.read(req, rule, seen.found) end
      code, message, hint, options = rules.ask(rule, self.sandbox.call, shown, with)
    end
    if code == "approval_timeout" then
      recorder.mark(req, "person")
      shows(seen, rule, view, reader, members)      -- a person is shown what the rule was told, whatever it made of its lists since
      code, message, hint, options = ask_person(self, req, agent, bundle, name, rule, options, seen)
    end
    if code == "asked" then return code end
    if not code and rule.pol and rule.pol.tools and lists_tools(req, view) then
      local rows, why = rules.rows(rule, self.sandbox.call)
      if rows then req:narrow(rows) else code, message, options = "rule_failed", ("rule %s: its script failed"):format(rule.name), { trouble = why } end
    end
    if answers and not code then
      answers.add(self, req, rule, with)
      if rule.pol.answer and rule.pol.answer[1] then view.headers:set("accept-encoding", "identity") end   -- a coding hides what it reads
    end
    if code then
      ruled_out(self, req, agent.name, rule, code, message, hint, options)
      if push then
        options = options or {}
        options.push = push
      end
      return code, message, hint, options
    end
  end
  if members and members.late then
    recorder.mark(req, "streamed")
    reading.late(req, members.reader, function(why) return ask_late(self, req, members, seen, shown, with, why) end)
  end
  if not reader and not push and not hidden and not members then return false end
  local synced, lost = self.config:sync(deadline + WAIT_MAX)
  if not synced then return lost end
  return self.config.applied ~= generation and "changed"
end

-- The bundle's rules that are asked about such requests, of whatever path: those of the same route can go the same way (req:keep) once they
-- were asked. nil: there is more to it.
local function light(self, req, bundle)
  local list, out = self.config:rules(bundle), {}
  if not list or req.form == "door" then return list == false and out or nil end
  local question = { method = method_of(req.method, req.websocket) }
  for _, rule in ipairs(rules.at(list, req.host)) do
    if rules.covers_method(rule, question.method) then
      local pol = rule.pol
      -- a GET's Accept says whether its answer lists tools
      if not pol or pol.tools and not (req.method == "POST" and req.has_body) or rule.follows and not (pol.answer and not pol.answer[1]) then return nil end
      out[#out + 1] = rule
    elseif question.method:upper() == "POST" and req.has_body then
      return nil
    end
  end
  return out
end

-- A function for req:keep: asks these rules about a later request, which then goes the kept way. Where one has something against it, all
-- is decided anew; what was counted is not counted again. nil: there are none to be asked.
local function asks_again(self, list, agent, bundle, name, req)
  if not list[1] then return nil end
  local with, answers, handle, seen, settle = rules_with(self, agent, bundle, name), nil, nil, nil, req.asked
  local told, count, looks = {}, self.count, 0        -- of the request that is asked about: { name, window, what it was } of each look at a counter
  local clean       -- the handle, where nothing of the last request is to be forgotten before the next
  function with.touched() clean = nil end
  function with.count(key, window, n, owner, kept)
    clean = nil
    local is = count(key, window, n, owner, kept)
    if is then
      told[looks + 1], told[looks + 2], told[looks + 3] = key, window, is
      looks = looks + 3
    end
    return is
  end
  local question = { host = req.host }
  local last, read_so
  local function readings()       -- one list for one path, which nobody changes
    local path = handle.path
    if path ~= last then last, read_so = path, paths.readings(self.path_readings, path) end
    return read_so
  end
  question.readings = readings
  local members = { method = req.method:upper(), scheme = req.scheme, host = req.host, port = req.port }
  local has_body, reads, narrows, parted = req.has_body, false, false, false
  for _, rule in ipairs(list) do
    answers = answers or rule.follows and require("answers") or nil
    reads = reads or has_body and (rule.pol.body or rule.pol.reader or rule.pol.members) ~= nil
    narrows = narrows or rule.pol.tools ~= nil
    parted = parted or rule.paths ~= nil
  end
  local all = reads and not parted and reads_of(self, req, list) or nil         -- each request is like this one, but for its path
  self.followed = self.followed or answers
  local own, view, now, turn, got, read = nil, nil, nil, 0, nil, nil
  local ask = rules.asker(list, self.sandbox.run, with, readings, reads and function(rule)
    turn = turn + 1
    now.asked = turn
    shows(own, rule, view, read.reader, got.members)
  end, (answers or narrows) and function(rule)
    local rows = rule.pol.tools and rules.rows(rule, self.sandbox.call)
    if rule.pol.tools and not rows then return false end
    if rows then handle:narrow(rows) end
    if rule.follows then answers.add(self, handle, rule, with) end
  end)
  -- What those of them read that are asked about this path, and what was read for them | nil: all is decided anew
  local function body_of(asked)
    local wanted, known = all, nil
    local at = (not wanted or wanted.pushes) and function()
      if known == nil then known = paths.readings(self.path_readings, asked.path) or false end
      return known or nil
    end
    if not wanted then
      local covered = {}
      for _, rule in ipairs(list) do
        if not rule.paths or rules.covers_path(rule.paths, at()) then covered[#covered + 1] = rule end
      end
      wanted = reads_of(self, asked, covered)
    end
    local is = read_for(self, asked, asked == handle and view or asked:view(), wanted, at)
    if is and not (is.members and is.members.late) then return wanted, is end
  end
  local head = list[1].pol
  head = head and not (list[2] or reads or parted or narrows or answers) and head.on_request or nil
  local function again(anew, token, path)
    counted[anew] = counts_of(told, looks)
    return self:on_request(anew, token, path)
  end
  local function each(asked, ran, said, more)       -- ran: head was called, and said something
    local wanted, is
    if reads then       -- It waits: other requests are asked about meanwhile, and whatever is set below is then theirs.
      wanted, is = body_of(asked)
      if not is then return self:on_request(asked:asked(false)) end
    end
    if asked ~= handle then     -- it is the same handle for most, whose view is made once
      handle, view = asked, asked:view()
      own, seen, now = rules.request(handle, question, view)
      for member, value in pairs(members) do own[member] = value end
    end
    if answers then answers.forget(handle, true) end    -- an earlier request's, whose task failed before it came to that
    if reads then
      read, got = wanted, is
      if not all or all.pushes then own.pushed = is.push or is.why end    -- to set what is not there costs more than to look
      if not all then own.found = nil end       -- an earlier request's, whose task failed
    end
    local fine
    if ran == nil then
      looks = 0
      if with.wall then with.wall = nil end
      if answers then with.memos = answers.memos(handle) elseif with.memos then with.memos = nil end    -- nil: each request gets its own, too
      clean = head and handle or nil
      fine = ask(seen)
    else
      fine = not rules.refuses(list[1], with, ran, said, more)
    end
    if reads then
      own.body, read, got = nil, nil, nil
      if is.members then own.found = nil end
      if wanted.pushes then own.pushed = nil end
    end
    local anew, token, path = settle(handle, fine)
    if answers then answers.forget(handle, anew ~= nil) end
    if anew then return again(anew, token, path) end
  end
  if not head then return each end
  -- One rule that reads the head is all that most bundles with rules have.
  local run, name_of, ctx = self.sandbox.run, list[1].type, rules.context(list[1], with)
  return function(asked)
    if asked ~= clean then return each(asked) end
    local ok, said, more = run(name_of, head, seen, ctx)
    if not ok or said ~= nil or more ~= nil then return each(asked, ok, said, more) end
    local anew, token, path = settle(asked, true)
    if anew then return again(anew, token, path) end
  end
end

-- ---- what a request names besides its own line -------------------------------------------------

-- May what was chosen go to this place, too? The same rules decide: true | nil, code
local function covers_second(self, req, agent, own, t)
  local found = self.config:candidates(agent, t.host)
  if not found then return nil, "policy_failed" end
  local item, code = decide(self, agent, found, {
    method = method_of(req.method, req.websocket), tls = (t.scheme or req.scheme) == "https", port = t.port or req.port,
    readings = function(known) return t.path and paths.readings(self.path_readings, t.path, known) end,
    presents = function(answered)
      local candidate = self.config:item(answered)
      return candidate and not candidate.domain and agent.name and presents(self, req, agent, candidate.name) or false
    end,
  })
  if item == own then return true end
  if item then code = t.host == req.host and "path_not_allowed" or "host_not_allowed" end  -- another one would decide
  return nil, code
end

local function names_in_query(req, routed)
  return routed == true and req.query ~= nil and require("request").form_names(req.query, require("target").in_query)
end

-- The fields that strip left, those that name a second target among them. nil: each of these is covered by what decided
-- | code, message
local function judge_second(self, req, agent, own, routed, targets)
  local target, headers, seen, values = require "target", req:view().headers, {}, {}
  for _, as in ipairs(headers:names()) do
    local name = as:gsub("_", "-")
    local kind = targets and targets[name] or require("request").second(name)
    if kind and kind ~= "away" and (routed or target.names_host(kind, req.host)) then
      values[as] = (values[as] or 0) + 1
      local code = seen[name] and routed and "ambiguous_path" or nil
      local list = not code and target.read(kind, headers:get(as, values[as]), req)
      if not list then code = code or "ambiguous_path" end
      for _, t in ipairs(list or {}) do
        local ok, why = covers_second(self, req, agent, own, t)
        if not ok then code = code or why end
      end
      if code == "ambiguous_path" then return code, ("servers may read the field %s in more than one way"):format(name) end
      if code then return code, ("the field %s names another place, which is not allowed here"):format(name) end
      seen[name] = true
    end
  end
  for _, t in ipairs(routed and target.in_path(req.host, function() return self.path_readings(req.path) end) or {}) do
    local ok, code = covers_second(self, req, agent, own, t)
    if not ok then return code, "the path names a second place, which is not allowed here" end
  end
  for _, t in ipairs(names_in_query(req, routed) and target.of_query(req) or {}) do
    local ok, code = covers_second(self, req, agent, own, t)
    if not ok then return code, "the query names a second place, which is not allowed here" end
  end
end

-- Paths of these hosts may name a second place, too, and so may a query.
local function names_in_line(req, routed)
  return routed == true and req.host:find("googleapis.com", 1, true) ~= nil or names_in_query(req, routed)
end

local METHODS = "it is kept to some methods, and a body may name another one (_method)"
local METHODS_INSTEAD = "send it as PUT, or with a Content-Type that is no form, JSON or multipart: that streams"
local CUT_MAX = 1 << 20      -- bytes of a form whose pairs are looked at one by one, some of them to be cut out
local UNREADABLE = ", so it cannot be looked into, and this is kept to some methods"

-- A method rule decided, and a body could say another. nil: it does not | code, message. A form's own is cut out, unless
-- the form is long. `of`: body.of for this request, whose body has been read; allowed: the set of methods. It may wait.
function judge_method(self, req, of, allowed)
  local config, has, why = require "config", nil, nil
  local function pause() take_turns(self) end
  if of.form and (req.length or #(req:view().body or "")) <= CUT_MAX then req:strip { form = config.overrides } end
  local text = req:view().body or ""
  if of.form then has = require("request").form_names(text, config.overrides) end
  if not has and (of.json or of.multipart or of.bare) then
    has, why = require("body").carries(of, text, of.multipart and config.overrides or config.json_overrides, pause)
  end
  if has then return "method_not_allowed", "the body names another method (_method), and this is kept to some methods" end
  if why then return "bad_request", why .. UNREADABLE end
  if require("body").batch(of, text, req.path, allowed, pause) then
    return "method_not_allowed", "the body is a batch of requests, and one has another method than is allowed here (or it is over 4 MiB)"
  end
end

-- The same, where the body may have to be read: it waits. nil: it may go on | code, message, hint, options
local function judge_posts(self, req, own, deadline, posts)
  if not posts or req.method ~= "POST" or not req.has_body then return nil end
  local body, generation = require "body", self.config.applied
  local of = body.of(req:view().headers)
  if not (of.form or of.json or of.multipart) then return nil end
  if body.unreadable(of) then return "bad_request", body.unreadable(of) .. UNREADABLE end
  local needs = {}
  wants(self, needs, nil, METHODS, METHODS_INSTEAD)
  local ok, why = read_whole(self, req, needs.max)
  if not ok then
    return body_refused(self, req, why, needs, own.domain and "domain " .. own.name or "credential " .. own.name)
  end
  local code, message = judge_method(self, req, of, posts)
  local synced, lost = self.config:sync(deadline + WAIT_MAX)
  if not synced then return lost end
  if self.config.applied ~= generation then return "changed" end
  return code, message
end

-- The same for a request without a credential. nil: it may go on | code, message, hint, options
local function judge_domain(self, req, agent, own, deadline, posts)
  local code, message
  if req:strip(self.config.routing) or names_in_line(req, true) then code, message = judge_second(self, req, agent, own, true) end
  if code then return code, message end
  return judge_posts(self, req, own, deadline, posts)
end

-- A request as the rows of lua/mint.lua ask about it.
local function mint_question(self, req)
  return {
    pause = function() take_turns(self) end,
    method = req.method, websocket = req.websocket, host = req.host, query = req.query,
    readings = function() return self.path_readings(req.path) end,
    body = function()
      local view, body = req:view(), require "body"
      local text = view.body or ""
      return text, body.hidden(body.of(view.headers), text, function() take_turns(self) end)
    end,
    kind = function() return req:view().headers:get("content-type") end,
  }
end

-- Has a row of the credential's calls a word to find in the body?
local function mint_reads(opened, q)
  local mint, own = require "mint", opened.pol.mint
  return opened.preset_mint ~= nil and mint.wants_body(opened.preset_mint, q)
    or type(own) == "table" and mint.wants_body(own, q)
end

-- ---- keys of the agent's own ---------------------------------------------------------------------

local SUBPROTOCOLS = "sec-websocket-protocol"
local spare = {}   -- the names of keys that a request bears of its own, while it has none: nearly all have none

-- Keys in a WebSocket's subprotocols: names the field in `keys` where one of them is not ours. What takes them out | nil.
local function subprotocols(req, strips, held, keys)
  local headers, all = req:view().headers, {}
  local value = not strips.keep[SUBPROTOCOLS] and headers:get(SUBPROTOCOLS)
  while value do
    all[#all + 1] = value
    value = headers:get(SUBPROTOCOLS, #all + 1)
  end
  local left, gone = carriers.subprotocols(table.concat(all, ","))
  if not gone then return nil end
  for _, text in ipairs(gone) do
    local ours = false
    for _, h in ipairs(held) do ours = ours or text:find(h.text, 1, true) or text:find(require("secret").base64url(h.text), 1, true) end
    if not ours then keys[1] = SUBPROTOCOLS end
  end
  return function()
    if left then headers:set(SUBPROTOCOLS, left) else headers:remove(SUBPROTOCOLS) end
  end
end

local function foreign_message(opened, keys)
  return ("this request bears a key of its own (%s), and the credential %s %s"):format(table.concat(keys, ", "), opened.name,
    opened.rec.attach and "goes where its placeholder stands, or no key at all" or "attaches another")
end

local function foreign_hint(opened)
  return ("leave it out%s; the operator can let it pass: sallyport credential set %s %s"):format(
    opened.rec.env and (", or send what %s holds"):format(opened.rec.env) or "", opened.name,
    opened.rec.attach and "attach=placeholder:own" or "keep=NAME")
end

local STRIPPED_MAX = 200     -- bytes of names in a record

-- A request that bears keys of its own. true: it goes out as it came, with nothing of ours | false: they are taken off |
-- nil, code, message, hint
local function own_key(self, req, agent, opened, strips, keys)
  local rec, found = opened.rec, nil
  req:log { agent = agent.name, decision = "allow", stripped = table.concat(keys, ", "):sub(1, STRIPPED_MAX) }
  for _, name in ipairs(rec.attach and keys or {}) do found = found or not strips.plain[name] end
  if found and not presents(self, req, agent, opened.name) then
    if rec.attach == "placeholder:own" then return true end
    return nil, "foreign_credential", foreign_message(opened, keys), foreign_hint(opened)
  end
  if req.method == "GET" or req.method == "HEAD" then return false end
  -- What changes something is not sent as another request than the one that was meant.
  for _, name in ipairs(strips.refused) do
    for _, key in ipairs(keys) do
      if key == "?" .. name then return nil, "foreign_credential", foreign_message(opened, { key }), foreign_hint(opened) end
    end
  end
  return false
end

-- A body in which a key of the agent's own may come is read: a form for the names of the query, JSON and multipart for those
-- that the type or preset says. (A body without a type is a form to Rack, of a POST: see `attach`.)
local function keyed_body(req, strips, of)
  if not req.has_body or not of then return false end
  return of.form and strips.refused[1] ~= nil and (not of.bare or req.method == "POST")
    or (of.json or of.multipart) and strips.body[1] ~= nil
end

-- Does one of the pairs that left the form bear none of our placeholders?
local function foreign_pair(before, after, held)
  local left = after:gmatch("[^&]+")
  local next_left = left()
  for pair in before:gmatch("[^&]+") do
    if pair == next_left then next_left = left() else
      local ours = false
      local plain = pair:gsub("%%(%x%x)", function(hex) return string.char(tonumber(hex, 16)) end)
      for _, h in ipairs(held) do ours = ours or plain:find(h.text, 1, true) ~= nil end
      if not ours then return true end
    end
  end
  return false
end

-- Does the body that was read bear a key that is not ours? In a form ours is cut out.
local function body_key(self, req, strips, of, held)
  local names, before = of.form and carriers.names { strips.refused, strips.body }, of.form and req:view().body or ""
  if names and require("request").form_names(before, names) then
    if #before > CUT_MAX then return true end
    req:strip { form = names }
    if foreign_pair(before, req:view().body or "", held) then return true end
  end
  if not (of.json or of.multipart) or not strips.body[1] then return false end
  return require("body").carries(of, req:view().body or "", strips.body) ~= false  -- what cannot be looked into has it
end

-- Of the rows with a challenge, those of which this call is the realm: the host is asked, with nothing that a client said, and
-- so that no client can leave it out. One answer counts for ten minutes. true, { [row] = true }, has it waited? | nil, code, message
local function realms_of(self, req, agent, opened, q, rows)
  local out, waited = {}, false
  for _, row in ipairs(req.scheme == "https" and rows or {}) do
    local key, now = ("%s:%d%s"):format(req.host, req.port, row.challenge), self.time.now()
    local own = self.config:item { id = "credential/" .. opened.name }
    local covered = covers_second(self, req, agent, own, { host = req.host, path = row.challenge })
    opened.realms = opened.realms or require("config").cache(REALMS_MAX)
    local known = covered and opened.realms:get(key)
    if covered and not (known and known.till > now) then
      local answer, code = require("route").client.request({ method = "GET", url = "https://" .. errors.host(req.host) .. ":" .. req.port .. row.challenge,
        head = true, addresses = opened.addresses, tls = opened.tls, exact = true }, now + REALM_WAIT)
      if not answer then
        return nil, "injection_unavailable", ("credential %s: whether this call makes a further key is asked of %s%s, which did not answer (%s)")
          :format(opened.name, errors.host(req.host), row.challenge, code)
      end
      local bearer = answer.status == 401 and require("challenge").bearer(answer.challenge) or {}
      local realm = bearer.realm and self.parse_url(bearer.realm)
      known, waited = { till = self.time.now() + REALM_MS, path = realm and realm.scheme == "https" and realm.host == req.host and realm.port == req.port
        and realm.path }, true
      opened.realms:put(key, known)
    end
    local path = known and known.path
    if path and (path == req.path or require("mint").check_path(path) and require("mint").met({ { path = path } }, q)[1]) then out[row] = true end
  end
  return true, out, waited
end

-- message, hint, options for a token that there is not
local function no_token(opened, code, info)
  local connect = opened.pol.connect and (code == "oauth_refresh_failed" or code == "oauth_not_connected")
  return info.message or ("credential %s: no token"):format(opened.name),
    connect and ("the operator can mend it: sallyport connect %s"):format(opened.name) or nil, { retry_after = info.retry_after }
end

-- true, nil, state, until: so it is while the store's state is of this generation (0: any), until then (nil: its body had a say) |
-- true, "own": nothing is attached, and its own key passes | nil, "changed" | nil, code, message, hint, options
local function attach(self, req, agent, opened, routed, deadline, sealed)
  local pol, cred, waited, generation = opened.pol, opened.view, false, self.config.applied
  local alone = sealed and sealed.alone
  local strips, held, keys, own = opened.strips[routed], held_for(self, agent, opened.name), spare, false
  local second = req:strip(strips)
  local take = req.websocket and subprotocols(req, strips, held, keys)
  if req:taken(sealed and sealed.held(held) or held, strips.names, keys) then
    spare = {}
    local code, message, hint
    own, code, message, hint = own_key(self, req, agent, opened, strips, keys)
    if code then return nil, code, message, hint end
    own = own and not sealed
  end
  if take and not own then take() end
  if second or pol.targets or names_in_line(req, routed) then
    local item = self.config:item { id = "credential/" .. opened.name }
    local code, message = judge_second(self, req, agent, item, routed == true, pol.targets)
    if code then return nil, code, message end
  end
  if own then return true, "own" end
  local state, fresh = 0, math.maxinteger
  if pol.refresh and not alone then
    local code, info, _
    _, state = self.store.generation()  -- before the token is read: it is of this state or a later one
    cred, code, info = self.tokens:fresh(opened.base or opened, deadline)
    fresh = cred and info or 0
    if not cred then return nil, code, no_token(opened, code, info or {}) end
    waited = true  -- or not: a wait of less than a millisecond shows on no clock
  end
  -- One view for all of the type's functions: what it was asked for is not made again.
  local view, needs = (pol.body or opened.guards) and req:view() or nil, {}
  if pol.body and not alone then
    local body, failed, why_failed = self.policy.body(pol, view, cred)
    if body == nil then
      self.log(("ev=policy_failed credential=%s policy=%s err=%s"):format(opened.name, pol.name,
        errors.quote(errors.place(why_failed))))
      return nil, failed, ("credential %s: its type failed"):format(opened.name)
    end
    if body then wants(self, needs, body.max, "its type " .. pol.name .. " reads it") end
  end
  local looks = not alone and rows.looks(opened, req, self.config.places)
  if looks then
    wants(self, needs, nil, rows.looked(opened.rec, looks),
      "send a file with a Content-Type of its own, which streams, or a placeholder in a header")
  end
  local posts = req.method == "POST" and req.has_body and strips.posts
  local keyed = req.has_body and (strips.refused[1] or strips.body[1]) ~= nil
  local of = (posts or strips.form or keyed) and require("body").of((view or req:view()).headers)
  keyed = keyed and keyed_body(req, strips, of)
  if keyed and of.bare and not posts then
    -- It streams: an answer may come before its end. It is told to be what RFC 9110 8.3 has it for, so nobody's form.
    (view or req:view()).headers:set("content-type", "application/octet-stream")
    keyed = false
  end
  if keyed then
    wants(self, needs, nil, ("a key of the agent's own may stand in it (%s)"):format(
      table.concat(of.form and strips.refused or strips.body, ", ", 1, math.min(3, #(of.form and strips.refused or strips.body)))))
  end
  posts = posts and (of.form or of.json or of.multipart) and posts
  if posts then
    local why = require("body").unreadable(of)
    if why then return nil, "bad_request", why .. UNREADABLE end
    wants(self, needs, nil, METHODS, METHODS_INSTEAD)
  end
  local asks = opened.challenges and seal.challenged(opened.seal_rows, req.query) or {}
  local question = (opened.mint_rows or asks[1]) and mint_question(self, req)
  if question and mint_reads(opened, question) then
    wants(self, needs, nil, "what it asks for may be a further credential (mint)")
  end
  local max = needs.max
  if max then
    local ok, why = read_whole(self, req, max)
    if not ok then
      return nil, body_refused(self, req, why, needs, "credential " .. opened.name,
        ("sallyport policy edit %s (body = { max })"):format(pol.name))
    end
    if (req.length or max) > HEAVY then take_turns(self) end
    -- Only now is there a form to take something from.
    if keyed and body_key(self, req, strips, of, held) then
      return nil, "foreign_credential", foreign_message(opened, { "the body" }), foreign_hint(opened)
    end
    if strips.form and of.form then req:strip { form = strips.form } end
    if posts then
      local code, message = judge_method(self, req, of, posts)
      if code then return nil, code, message end
    end
    waited = true
  end
  local sealing
  if asks[1] then
    local ok, realms, message = realms_of(self, req, agent, opened, question, asks)
    if not ok then return nil, realms, message end
    question.realms, waited = realms, waited or message
  end
  if opened.guards or asks[1] then
    local code, message, hint = minted(self, opened, question, view, cred)   -- of a body it reads, it waits
    if code then return nil, code, message, hint end
    sealing = message
    if sealing and unset(self.time.wall()) then return nil, "clock_unset", UNSET end     -- before anything is made that would be thrown away
  end
  if waited then
    -- What was decided before the wait must still be so: a credential may have been taken away meanwhile.
    local synced, lost = self.config:sync(deadline + WAIT_MAX)
    if not synced then return nil, lost end
    if self.config.applied ~= generation then return nil, "changed" end
  end
  if self.known and agent.known_at ~= self.config.build.held_at then return nil, "changed" end
  local patient = max ~= nil and (req.length or max) > HEAVY
  local ok, code, message, advice = inject(self, req, agent, opened, cred, view, false, patient, sealed)
  if not ok then return ok, code, message, advice end
  if sealing then
    local members, usual = seal.members(sealing, question, self.config.places)
    req:seal { agent = agent.id, agent_epoch = agent.epoch, credential = opened.rec.id, credential_epoch = opened.rec.epoch,
      members = members, default = usual, max = self.config.settings.seal_max, no_later = sealed and sealed.ends }
  end
  if patient then
    -- It may have waited, and the body holds the secret: this request is not decided anew.
    local synced, lost = self.config:sync(deadline + WAIT_MAX)
    if not synced then return nil, lost end
    if self.config.applied ~= generation then
      return nil, "injection_unavailable", "what is allowed changed while the body was read: send it again"
    end
  end
  if agent.known then
    local lost, why, hint = astray(self, agent, req, opened, req:known(agent.known))
    if lost then return nil, lost, why, hint end
  end
  return true, nil, state, not max and fresh or nil
end

-- ---- token requests of the sandbox's own -------------------------------------------------------

-- What the real answer said of the members that its type lets the sandbox see; a token is fetched for it where there is
-- none. table | nil (it names none) | false, code, info
local function plain_members(self, opened, deadline)
  local list = self.policy.plain(opened.pol, opened.view)
  if not list or not list[1] then return nil end
  local code, info
  opened, code, info = self.config:fetched(opened, deadline)
  if not opened then return false, code, info or {} end
  local cred
  cred, code, info = self.tokens:fresh(opened.base or opened, deadline)
  if not cred then return false, code, info or {} end
  return self.policy.plain_of(list, cred.state)
end

-- The credential whose stand-in the request presents, and the answer that it gets in the server's place.
-- opened, status, text | opened, false, code, info | nil
local function stand_in_answer(self, req, agent, names, deadline)
  local host, headers = require "host", req:view().headers
  local with = {
    json = self.json, uri = require "uri", decode = require("secret").decode, verify = require("sign.core").verify, store = self.store,
    base64url = require("secret").base64url, sandbox = self.sandbox, now = self.time.wall(),
  }
  local asked = stand_in.asked(with, require("body").of(headers), req:view().body or "", headers:get("authorization"))
  if not asked then return nil end
  for i, name in ipairs(names) do
    local opened = i <= stand_in.TRIES_MAX and self.config:open(name)
    local parts = opened and stand_in.parts(self.records, agent.name, opened.rec)
    local ours, claims
    with.held = opened and self.records.held(agent.name, opened.rec)
    if opened then ours, claims = stand_in.presents(with, asked, agent.name, name, parts) end
    if ours then
      local plain, code, info = plain_members(self, opened, deadline)
      if plain == false then return opened, false, code, info end
      local status, text = stand_in.answer(with, opened.pol, opened.view, asked, parts, claims, plain)
      return opened, status, text
    end
  end
end

-- What match.lua is to leave out of a decision.
local function skips_of(names)
  local skips = names and {}
  for _, name in ipairs(names or {}) do skips["credential/" .. name] = true end
  return skips
end

-- An SDK in the sandbox may fetch a token itself, with what `credential sandbox-file` gave it: then it gets one that is
-- as much a placeholder, and no request goes anywhere. true: answered; false: an ordinary request, in which those
-- credentials have no part; nil, code: refused, or "changed".
local function answer_token_request(self, req, agent, names, deadline)
  if req.method ~= "POST" then return false end
  local generation = self.config.applied
  local ok, why = req:read_body(stand_in.BODY_MAX, self.time.now() + BODY_WAIT)
  if not ok then return nil, body_codes[why] or "bad_request" end
  local synced, lost = self.config:sync(deadline + WAIT_MAX)
  if not synced then return nil, lost end
  if self.config.applied ~= generation then return nil, "changed" end
  local opened, status, text, info = stand_in_answer(self, req, agent, names, deadline)
  if not opened then return false end
  synced, lost = self.config:sync(deadline + WAIT_MAX)   -- it may have waited for a token
  if not synced then return nil, lost end
  if self.config.applied ~= generation or status == false and text == "changed" then return nil, "changed" end
  local bundle
  for _, b in ipairs(agent.bundles) do
    for _, has in ipairs(opened.rec.bundles or {}) do bundle = bundle or b == has and b or nil end
  end
  local turn = req:log { agent = agent.name, requests = agent.requests, bundle = bundle, credential = opened.name,
    decision = "allow", reason = "token placeholder" }
  if turn == false then return nil, "too_many" end
  if turn == "waited" then return nil, "changed" end
  if status == false then
    local message, hint, options = no_token(opened, text, info)
    errors.fail(req, text, message, hint or errors.hint(text, opened.name), options)
    return true
  end
  if not status then
    self.log(("ev=policy_failed credential=%s policy=%s err=%s"):format(opened.name, opened.pol.name, errors.quote(errors.place(text))))
    return nil, "policy_failed"
  end
  errors.page(req, status, "application/json", text)
  return true
end

-- ---- our own endpoints ---------------------------------------------------------------------------

local function some(list)
  return list and #list > 0 and list or nil
end

-- Where the agent may write a placeholder, and have it replaced.
local function discover_rows(self, agent, rec)
  local out, held = {}, rec.rows and self.records.held(agent.name, rec)
  for _, row in ipairs(rec.rows or {}) do
    for _, text in ipairs(rows.texts(row, held)) do out[#out + 1] = { placeholder = text, ["in"] = row.place } end
  end
  return some(out)
end

-- The hosts as they are for this agent; one whose variable is not set is none.
local function hosts_for(self, agent, rec, bundle)
  local out, get = {}, self.config:variables(agent, bundle)
  for _, rule in ipairs(rec.hosts or {}) do out[#out + 1] = variables.host(rule, get) end
  return out
end

-- Where an agent holds a credential under several names, each with its text.
local function discover_variables(self, agent, rec)
  local out, held = {}, self.records.held(agent.name, rec)
  for _, h in ipairs(held) do
    if h.env then out[h.env] = h.text end
  end
  for _, name in ipairs(held[1] and rec.env_also or {}) do out[name] = held[1].text end
  return next(out, (next(out))) and out or nil
end

local function discover_credential(self, agent, rec, bundle)
  return {
    bundle = bundle, credential = rec.name, type = rec.type, hosts = self.json.array(hosts_for(self, agent, rec, bundle)),
    ports = some(rec.ports) or (rec.plain_http and { 443, 80 } or { 443 }), methods = some(rec.methods),
    paths = some(rec.paths),
    attach = rec.attach, env = rec.env, placeholder = self.records.placeholder(agent.name, rec),
    variables = discover_variables(self, agent, rec), substitute = discover_rows(self, agent, rec), keys = require("proposals").keys(rec),
  }
end

local function discover_domain(_, _, rec, bundle)
  return {
    bundle = bundle, name = rec.name, hosts = { rec.host }, ports = some(rec.ports) or { 443 }, paths = some(rec.paths),
    methods = not rec.tunnel and (some(rec.methods) or { "GET", "HEAD", "OPTIONS" }) or nil, tunnel = rec.tunnel,
  }
end

-- The same in the words that agents know from elsewhere: a service is a name and a host, which has its port and path beside it, as in a proposal.
local function discover_services(out, entry)
  local ports, usual = entry.ports, false
  for _, port in ipairs(ports) do usual = usual or port == 443 end
  for _, host in ipairs(entry.hosts) do
    for i, port in ipairs(ports) do
      for _, path in ipairs((not usual or i == 1) and (entry.paths or { "/" }) or {}) do
        if #out.services >= SERVICES_MAX then
          out.truncated = true
          return
        end
        out.services[#out.services + 1] = { name = entry.credential or entry.name or host,
          host = ("%s%s%s"):format(host, usual and "" or ":" .. port, path == "/" and "" or path:gsub("/$", "") .. "/*") }
      end
    end
  end
end

-- In the store's order of names: a list for reading, not for deciding.
local function discover_page_all(self, agent, out, db, prefix, row_of)
  local after
  repeat
    local page = self.store.each(db, prefix, after, PAGE)
    for _, row in ipairs(page) do
      after = row.key
      local entry = not row.damaged and row_of(row)
      if entry then
        if #out.allowed >= DISCOVER_MAX then
          out.truncated = true
          return
        end
        out.allowed[#out.allowed + 1] = entry
        for _, key in ipairs(entry.keys or {}) do
          if not out.seen[key] then out.seen[key], out.available_credentials[#out.available_credentials + 1] = true, key end
        end
        discover_services(out, entry)
      end
    end
    self.time.sleep(0)
  until #page < PAGE
end

--- What an agent may reach, and with what in the credentials' places.
function M:discover(agent)
  local out = { agent = agent.name, services = self.json.array {}, available_credentials = self.json.array {}, allowed = self.json.array {}, seen = {} }
  discover_page_all(self, agent, out, "credential", "", function(row)
    local rec = row.record
    if rec.enabled == false then return nil end
    for _, b in ipairs(rec.bundles or {}) do
      local entry = agent.in_bundle[b] and discover_credential(self, agent, rec, b)
      if entry and entry.hosts[1] then return entry end
    end
  end)
  for _, bundle in ipairs(agent.bundles) do
    discover_page_all(self, agent, out, "bundle", bundle .. "/", function(row)
      return row.record.enabled ~= false and discover_domain(self, agent, row.record, bundle)
    end)
  end
  out.seen = nil
  return out
end

-- Every record of the store is looked at for it: once until something changes, and by one request of an agent's at a
-- time. Others would wait for a hundred of them.
local function discover_page(self, agent)
  local time, config = self.time, self.config
  local turn = time.now() + PAGE_TURN
  local page = self.pages:get(agent.name)
  while page and page.making and page.agent == agent and time.now() < turn do
    time.sleep(PAGE_POLL)
    page = self.pages:get(agent.name)
  end
  if page and page.text and page.agent == agent and page.at == config.applied then return page.text end
  page = self.pages:put(agent.name, { agent = agent, making = true })
  local at = config.applied
  local text = self.json.encode(self:discover(agent)) .. "\n"
  page.making, page.text, page.at = nil, text, at
  return text
end

-- What an agent asks a person for (lua/proposals.lua): GET and POST /v1/proposals.
local function proposals(self, req, agent, bundle)
  local body
  if req.method == "POST" then
    if req.path ~= "/v1/proposals" then return errors.fail(req, "method_not_allowed", "a proposal is read with GET", "use GET") end
    body = require("web.body").read(self, req, require("proposals").BODY_MAX)
    if not body then return nil end
  end
  local status, value, message, hint, options = require("proposals").answer(self, req, agent, bundle, body and (body == true and "" or body))
  if not status then return errors.fail(req, value, message, hint, options) end
  return errors.page(req, status, "application/json", self.json.encode(value) .. "\n")
end

-- The same under the names that agents know from elsewhere.
local own_pages = { ["/healthz"] = "healthz", ["/ca.pem"] = "ca", ["/v1/mitm/ca.pem"] = "ca", ["/discover"] = "discover", ["/v1/proposals"] = "proposals" }

local function own_endpoint(self, req)
  local path, method = req.path, req.method
  local page = own_pages[path] or path:find("^/v1/proposals/%x+$") and "proposals"
  if not page then
    return refuse(req, nil, "path_not_allowed", "the proxy itself has no such page",
      "it has GET /discover, /ca.pem and /healthz, and POST /v1/proposals; requests for other hosts go through it as a proxy")
  end
  if method ~= "GET" and method ~= "HEAD" and not (page == "proposals" and method == "POST") then
    return refuse(req, nil, "method_not_allowed", "the proxy's own pages are read with GET", "use GET")
  end
  if page == "healthz" then
    local why = require("metrics").unready(self.store)
    return errors.page(req, why[1] and 503 or 200, "text/plain", why[1] and table.concat(why, "\n") .. "\n" or "ok\n")
  end
  if page == "ca" then
    local ca = self.store.peek("meta", "ca")
    if not ca then return refuse(req, nil, "store_unavailable") end
    if path ~= "/ca.pem" and req.port then
      return req:respond(200, { { "Content-Type", "application/x-pem-file" }, { "X-MITM-Port", tostring(req.port) } }, ca.pem)
    end
    return errors.page(req, 200, "application/x-pem-file", ca.pem)
  end
  local agent, how, whose = asking(self, req.token)
  if not agent then return unknown(req, how, whose) end
  local vault, wrong = vault_of(self, req, agent)
  if wrong then return refuse(req, agent, wrong) end
  local turn = req:log { agent = agent.name, requests = agent.requests, reason = page }
  if turn == false then return errors.fail(req, "too_many") end
  if turn == "waited" then return self:on_request(req, req.token) end
  if page == "proposals" then return proposals(self, req, agent, vault or agent.first) end
  local text = discover_page(self, agent)
  vault = vault or agent.first      -- one page for all vaults: each of them would be made anew
  return errors.page(req, 200, "application/json", vault and ('{"vault":%s,%s'):format(self.json.encode(vault), text:sub(2)) or text)
end

-- A redirected client was sent where a name leads; an address is no name, unless somebody wrote that address down.
local function names_nobody(self, token, host, agent, bundle, hosts)
  return doors.captured(token) and require("addr").parse(host) and not M.names_exactly(hosts, host, self.config:variables(agent, bundle))
end

-- HTTP towards the upstream, of the setting `upstream-http`: 2, 1, or 0: 2 where the client speaks it.
local function http_of(self) return tonumber(self.config.settings.upstream_http) or 0 end

-- Hands the request to C, through the upstream proxy where there is one for its host. `hosts`: those that the entry names,
-- which the agent has through the bundle.
local function go(self, req, agent, bundle, hosts, forward, tunnel)
  forward.via = nil
  if names_nobody(self, req.token, req.host, agent, bundle, hosts) then
    return refuse(req, agent, "host_not_allowed", "a redirected connection names no host, and no entry names this address")
  end
  if ways.active() then
    local via, code, message, hint = ways.through { host = req.host, port = req.port, tls = not tunnel and req.scheme == "https",
      addresses = forward.addresses, exact = M.names_exactly(hosts, req.host, self.config:variables(agent, bundle)) }
    if via == nil then return refuse(req, agent, code, message, hint) end
    forward.via = via
  end
  if tunnel then return req:tunnel(forward) end
  return req:forward(forward)
end

-- ---- entry points --------------------------------------------------------------------------------

function M:on_connect(req)
  local synced, lost = self.config:sync(self.time.now() + WAIT_MAX)
  if not synced then return errors.fail(req, lost) end
  local agent, how, whose = asking(self, req.token)
  if not agent then return unknown(req, how, whose) end
  if req.vault then
    local _, wrong = vault_of(self, req, agent)
    if wrong then return refuse(req, agent, wrong) end
  end
  if req:log { agent = agent.name } == false then return errors.fail(req, "too_many") end
  -- What will be refused is intercepted too, so that the client can read why; so is what match.lua cannot judge.
  local found = self.config:candidates(agent, req.host)
  if not found then return req:intercept() end
  local ok, item, bundle = self.sandbox.call("match", self.config.build.match.tunnel, found.all, req.port, agent.off)
  local own = ok and self.config:item(item)
  if not relays(agent, own, bundle) then return req:intercept() end
  local turn = req:log { agent = agent.name, requests = agent.requests, bundle = bundle, decision = "allow",
    reason = "tunnel " .. own.name }
  if turn == false then return errors.fail(req, "too_many") end
  if turn == "waited" then return self:on_connect(req) end
  local code, message, hint, options = ruled(self, req, agent, bundle, nil, self.time.now(), true)
  if code == "asked" then return self:on_connect(req) end
  if code then return errors.fail(req, code, message, hint, options) end
  return go(self, req, agent, bundle, { own.name }, { addresses = own.domain.addresses, raw = own.domain.tunnel == "raw" }, true)
end

local refused_codes = {
  mint_denied = true, sealed_elsewhere = true, sealed_expired = true, foreign_credential = true, host_not_allowed = true, service_disabled = true, path_not_allowed = true, method_not_allowed = true, ambiguous_path = true,
}

-- A request goes out with its own key, as it came. What would make a server see another method or path stays away, or is
-- refused, as where no credential is. false: what was decided changed meanwhile.
local function let_own_pass(self, req, agent, bundle, opened, routed, websocket, deadline)
  req:unstrip()
  if routed then
    local own = self.config:item { id = "credential/" .. opened.name }
    local code, message, hint, options = judge_domain(self, req, agent, own, deadline, opened.strips[routed].posts)
    if code == "changed" then return false end
    if code then
      if refused_codes[code] then refuse(req, agent, code, message) else errors.fail(req, code, message, hint, options) end
      return true
    end
  end
  req:log { agent = agent.name, credential = "", decision = "allow", reason = "a key of its own: " .. opened.name, stripped = "" }
  go(self, req, agent, bundle, opened.rec.hosts, { addresses = opened.addresses, tls = opened.own_tls, websocket = websocket,
    answer_timeout = opened.rec.answer_timeout, idle_timeout = opened.rec.idle_timeout, http = opened.rec.upstream_http or http_of(self) })
  return true
end

-- The request as an upstream would have got it, as JSON. For the demo credential alone.
local function echo(self, req)
  local ok, why = req:read_body(ECHO_MAX, self.time.now() + BODY_WAIT)
  if not ok then return errors.fail(req, body_codes[why] or "bad_request", body_messages[why]) end
  local view, seen, default = req:view(), {}, req.scheme == "https" and 443 or 80
  local function quoted(value)
    local built, text = pcall(self.json.build, value)
    return built and text or '"(not UTF-8)"'
  end
  local host = errors.host(req.host) .. (req.port ~= default and ":" .. req.port or "")
  local text = '{\n  "method": ' .. quoted(req.method) .. ',\n  "url": ' .. quoted(req.scheme .. "://" .. host .. (req:target()))
    .. ',\n  "headers": {\n    "host": ' .. quoted(host)
  for _, name in ipairs(view.headers:names()) do
    seen[name] = (seen[name] or 0) + 1
    text = text .. ",\n    " .. quoted(name) .. ": " .. quoted(view.headers:get(name, seen[name]))
  end
  return errors.page(req, 200, "application/json", text .. '\n  },\n  "body": ' .. quoted(view.body or "") .. "\n}\n")
end

-- Attaches the credential and hands the request to C. false: what was decided changed meanwhile, and nothing was done.
-- `again`: nothing of it but its route had a say so far, and requests like it may go the same way once these rules (light) were asked.
local function send(self, req, agent, plan, opened, routed, websocket, deadline, again, sealed)
  local ok, code, message, hint, options
  if opened.rec.from then
    opened, code, message = self.config:fetched(opened, deadline, agent, plan.log.bundle)
    if code == "changed" then return false end
    if not opened then
      return errors.fail(req, code, message.message, errors.hint(code, plan.log.credential), { retry_after = message.retry_after }) or true
    end
    if code and opened.pol.refresh then self.tokens:again(opened.base or opened) end     -- what the server said of the old ones is over
    if at_endpoint(self, opened, req.scheme, req.host, req.port, req.path) then return refuse(req, agent, "token_endpoint") or true end
  end
  ok, code, message, hint, options = attach(self, req, agent, opened, routed, deadline, sealed)
  if code == "changed" then return false end
  if refused_codes[code] then
    refuse(req, agent, code, message, hint)
  elseif code == "own" then
    return let_own_pass(self, req, agent, plan.log.bundle, opened, routed, websocket, deadline)
  elseif not ok then
    errors.fail(req, code, message, hint or errors.hint(code, opened.name), options)
  elseif plan.echo and self.config.echo then
    echo(self, req)
  else
    local forward = plan.forward
    forward.addresses, forward.tls = opened.addresses, opened.tls
    if sealed and sealed.far then forward.addresses, forward.tls = sealed.addresses, opened.far_tls end
    forward.answer_timeout, forward.idle_timeout, forward.http = opened.rec.answer_timeout, opened.rec.idle_timeout, opened.rec.upstream_http or http_of(self)
    -- of an answer to a sealed text nothing is learnt about the credential
    forward.watch, forward.websocket = not sealed and (opened.pol.refresh ~= nil or opened.pol.clock == true or opened.rec.from ~= nil), websocket
    go(self, req, agent, plan.log.bundle, sealed and sealed.hosts or opened.rec.hosts, forward)
    local config, state, fresh = self.config, message, hint
    if again and not config.recording and opened.still and state and fresh and fresh > 0 and not names_in_line(req, routed)
      and not (opened.challenges and seal.challenged(opened.seal_rows, req.query)[1]) then
      req:keep(config.applied, state, math.floor(math.min(fresh, config:ends(req.token, agent))), agent.requests, agent.known,
        asks_again(self, again, agent, plan.log.bundle, opened.name, req))
    end
  end
  return true
end

-- Where nothing of a request but its route had a say, the next of this agent and route goes the same way, until anything
-- changes. (That a token endpoint is nobody's is not known of a host that has one: it is a matter of the path.)
local function make_ready(self, req, agent, route, kept, opened, plan, routed)
  if not route or not kept or kept.foreign or plan.echo or opened.wants or has_endpoint(opened, req)
    or stand_in.has(self.config.build.token_endpoints, req.host) then return false end
  if agent.ready_count >= READY_MAX then agent.ready, agent.ready_count = {}, 0 end
  agent.ready[route] = { name = opened.name, version = opened.version, plan = plan, routed = routed }
  agent.ready_count = agent.ready_count + 1
  return true
end

-- opened, plan, routed | nil
local function ready_for(self, agent, route)
  local config = self.config
  local ready = route and agent.generation == config.applied and agent.ready[route]
  local opened = ready and config:open(ready.name)
  if opened and opened.version == ready.version then return opened, ready.plan, ready.routed end
end

-- ---- sealed texts --------------------------------------------------------------------------------

-- May a sealed text stand in this body, so that it must be read first? In a form or JSON body, where a credential of the
-- agent's has rows that open there: towards the hosts where they do, and in what is short towards any. any: or may one stand in
-- another body of this kind, however long, of a request that is decided as this one?
local function sealed_body(self, req, agent, any)
  local build = self.config.build
  if not build or not req.has_body or next(build.sealing) == nil or not any and (req.length or 0) > seal.BODY_MAX then return false end
  local of = require("body").of(req:view().headers)
  if not (of.form or of.json) then return false end
  for name, bodies in pairs(build.sealing) do
    local own = build.items["credential/" .. name]
    if own and (of.form and bodies.form or of.json and bodies.json) and holds(agent, own) then
      if any or req.length and req.length <= SEALED_LOOK then return true end
      local opened = self.config:open(name)
      for _, row in ipairs(opened and opened.seal_rows or {}) do
        if row.bodies and belongs(self, agent, reach_of(opened.rec, row), req) then return true end
      end
    end
  end
  return false
end

-- RFC 6750 3.1: clients that know no end of a bearer ask for another when they are told this, and when they are told nothing else.
local EXPIRED = { status = 401, fields = { { "WWW-Authenticate", 'Bearer error="invalid_token", error_description="the sealed text has ended"' } } }

-- The sealed texts that stand where their rows open them: { { text =, place =, row = }…, name = the credential's, ends = the
-- first end } | nil: none | nil, code, message, hint.
local function sealed_in(self, req, agent, deadline)
  local config = self.config
  if sealed_body(self, req, agent) then
    local generation, needs = config.applied, {}
    wants(self, needs, nil, "a sealed text may stand in it")
    local ok, why = read_whole(self, req, needs.max)
    if ok and (req.length or needs.max) > HEAVY and req:sealed() then take_turns(self) end
    -- of a length that is known nothing was read: it streams, and what stands in it is the worthless text that it is
    if not ok and not (why == "too_large" and req.length) then return nil, body_refused(self, req, why, needs, "sealed texts") end
    local synced, lost = config:sync(deadline + WAIT_MAX)
    if not synced then return nil, lost end
    if config.applied ~= generation then return nil, "changed" end
  end
  if not req:sealed() or not config.build then return nil end
  local build, now, out = config.build, self.time.wall(), { hosts = {} }
  local list = seal.find(req, build.places)
  if not list then return nil, "sealed_elsewhere", "more than 4 sealed texts stand in this request" end
  for _, text in ipairs(list) do
    local name = build.by_id[text.credential]
    local own = name and build.items["credential/" .. name]
    local opened = own and config:open(name)
    local row = opened and seal.by_id(opened.seal_rows, text.row)
    if seal.opens(row, build.places[text.place]) then
      if text.agent ~= agent.id or not row or not holds(agent, own) then return nil, "sealed_elsewhere", SHUT end
      if out.name and out.name ~= name then return nil, "sealed_elsewhere", "these texts were sealed for more than one credential" end
      if opened.rec.mint == "refuse" then
        return nil, "sealed_elsewhere", ("the credential %s makes no further credentials (mint=refuse)"):format(name)
      end
      if not text.alone then
        local place = build.places[text.place]
        return nil, "sealed_elsewhere", ("a sealed text stands alone in its place: something else is in the %s %s, too"):format(
          place[1] == "json" and "body's" or place[1], place[1] == "json" and "member" or place[2])
      end
      if unset(now) then return nil, "clock_unset", UNSET end
      -- Its end is a whole second, and a client counts from when it had the answer: it ends when that second is over.
      if text.ends < now then return nil, "sealed_expired", nil, nil, row.expired and EXPIRED end
      out[#out + 1] = { row = row, text = text.text, place = build.places[text.place] }
      out.name, out.ends = name, math.min(out.ends or text.ends, text.ends)
    end
  end
  if not out.name then return nil end
  -- What is no key of the agent's own: its placeholders, and these texts.
  function out.held(held)
    local more = table.move(held, 1, #held, 1, {})
    for _, text in ipairs(out) do more[#more + 1] = { text = text.text } end
    return more
  end
  return out
end

-- Does the credential, as it is now and with the hosts of this row (nil: of any), cover the request for this agent? As it would
-- be decided if there were no other. "own": by a host of its own, "far": by a further one; routed | nil, why
local function covers_sealed(self, agent, opened, row, bundle, req)
  local value_of = self.config:variables(agent, bundle)
  local rec = opened.rec
  local wide = reach_of(rec, row, opened.seal_rows)
  if req.scheme ~= "https" then return nil, "it goes over TLS alone" end
  if not covers(wide, req, value_of) then return nil, ("it does not go to %s"):format(errors.host(req.host)) end
  local list, match = self.config:alone(wide, req.host, agent, bundle)
  if not list then return nil, "matching failed" end
  local ok, item, code, routed = self.sandbox.call("match", match.decide, list, {
    method = method_of(req.method, req.websocket), tls = true, port = req.port,
    readings = function(known) return paths.readings(self.path_readings, req.path, known) end,
    presents = function() return true end,
  })
  if not ok or not item then
    return nil, code == "method_not_allowed" and "its method is not allowed" or code == "path_not_allowed" and "its path is not allowed"
      or code == "ambiguous_path" and "servers read its path in different ways" or "its host or port is not covered"
  end
  return covers(rec, req, value_of) and "own" or "far", routed ~= false
end

-- The decision for a request with sealed texts: their credential's, and nobody else's.
-- own, bundle, routed, opened | nil, code, message
local function judge_sealed(self, req, agent, sealed)
  local config, name = self.config, sealed.name
  local own, opened, code, why = config:item { id = "credential/" .. name }, config:open(name)
  if not own or not opened then return nil, code or "sealed_elsewhere", ("credential %s: %s"):format(name, tostring(why)) end
  if opened.version ~= own.version then return nil, "changed" end
  local said
  for _, bundle in ipairs(agent.bundles) do
    local fits, far, routed = own.bundles[bundle], false, false
    for _, text in ipairs(fits and sealed or {}) do
      local how, detail = covers_sealed(self, agent, opened, text.row, bundle, req)
      fits, said = fits and how ~= nil, not how and detail or said
      far, routed = far or how == "far", routed or how ~= nil and detail
    end
    if fits then
      if opened.wants then
        opened, code, why = config:filled(opened, agent, bundle)
        if not opened then return nil, code, ("credential %s: %s"):format(name, tostring(why)) end
      end
      sealed.far, sealed.alone = far, far
      for _, text in ipairs(sealed) do
        sealed.alone = sealed.alone or text.place[2] == "authorization" and opened.strips.plain
        for _, host in ipairs(reach_of(opened.rec, text.row).hosts) do table.insert(sealed.hosts, host) end
      end
      if covers({ hosts = opened.rec.seal_hosts }, req, config:variables(agent, bundle)) then sealed.addresses = opened.addresses end
      return own, bundle, routed, opened
    end
  end
  return nil, "sealed_elsewhere", ("this text was sealed for the credential %s, and %s"):format(name, said or "the agent does not hold that")
end

-- As `serve`, for a request that bears sealed texts.
local function serve_sealed(self, req, agent, sealed, deadline)
  if req.method == "TRACE" then return refuse(req, agent, "trace") or true end
  local own, bundle, routed, opened = judge_sealed(self, req, agent, sealed)
  if not own and bundle == "changed" then return false end
  if not own then
    if refused_codes[bundle] then refuse(req, agent, bundle, routed) else errors.fail(req, bundle, routed) end
    return true
  end
  local plan = { forward = {}, log = { agent = agent.name, requests = agent.requests, bundle = bundle, credential = sealed.name,
    decision = "allow", reason = "sealed" } }
  local turn = log_decided(self, req, plan.log)
  if turn == "waited" then return false, turn end
  if turn == false then
    errors.fail(req, "too_many")
  elseif opened.endpoints[1] and at_endpoint(self, opened, req.scheme, req.host, req.port, req.path) then
    refuse(req, agent, "token_endpoint")
  else
    local denied, said, advice, options = ruled(self, req, agent, bundle, sealed.name, deadline)
    if denied == "changed" or denied == "asked" then return false, denied == "asked" end
    if denied then return fail_ruled(self, req, denied, said, advice, options) or true end
    return send(self, req, agent, plan, opened, denied == false or routed or "guarded", req.websocket, deadline, false, sealed)
  end
  return true
end

-- A stream that goes on, for which a sealed text was opened: would that open now, and its credential cover the request?
local function sealed_still(self, agent, info)
  local own, opened = self.config:item { id = "credential/" .. (info.credential or "") }, self.config:open(info.credential or "")
  return own ~= nil and opened ~= nil and own.bundles[info.bundle] and agent.in_bundle[info.bundle]
    and info.unsealed == epochs_of(agent, opened.rec) and covers_sealed(self, agent, opened, nil, info.bundle, info) ~= nil
end

-- Decides and does it. false: what was decided changed while the request waited, and nothing was done; then a true second
-- value: it waited for the agent's other requests to end, or for a person, which is no try.
local function serve(self, req, agent, route, deadline, only)
  if not learn(self, agent) then return false end
  local sealed, wrong, message, hint, options = sealed_in(self, req, agent, deadline)
  if sealed and only and only ~= sealed.name then
    return refuse(req, agent, "sealed_elsewhere", "this text was sealed for another credential than this gateway's") or true
  end
  if sealed then return serve_sealed(self, req, agent, sealed, deadline) end
  if wrong == "changed" then return false end
  if wrong then
    if refused_codes[wrong] then refuse(req, agent, wrong, message, hint, options) else errors.fail(req, wrong, message, hint, options) end
    return true
  end
  local searched = sealed_body(self, req, agent, true)
  local ready, ready_plan, ready_routed = ready_for(self, agent, route)
  if ready then
    local turn = log_decided(self, req, ready_plan.log)
    if turn == "waited" then return false, turn end
    if not turn then return errors.fail(req, "too_many") or true end
    local bundle = ready_plan.log.bundle
    local code, said, advice, more = ruled(self, req, agent, bundle, ready.name, deadline)
    if code == "changed" or code == "asked" then return false, code == "asked" end
    if code then return fail_ruled(self, req, code, said, advice, more) or true end
    return send(self, req, agent, ready_plan, ready, code == false or ready_routed, false, deadline, not searched and light(self, req, bundle))
  end
  if req.method == "TRACE" then return refuse(req, agent, "trace") or true end
  local names, skips = self.config:at_token_endpoint(agent, req), nil
  if names then
    local answered, code = answer_token_request(self, req, agent, names, deadline)
    if code == "changed" then return false end
    if code then return refuse(req, agent, code) or true end
    if answered then return recorder.mark(req, "answered") or true end
    skips = skips_of(names)
  end
  local own, bundle, routed, opened, plan, kept = judge(self, req, agent, deadline, skips)
  if bundle == "changed" and not own then return false end
  if own and only and (own.domain or own.name ~= only) then
    return refuse(req, agent, "host_not_allowed", "this tenant does not hold the gateway's credential") or true
  end
  local turn = own and log_decided(self, req, plan.log)
  if turn == "waited" then return false, turn end
  if not own and skips then
    return refuse(req, agent, "token_endpoint",
      ("credential %s: this is its token endpoint, and the request presents nothing that stands in for it"):format(names[1])) or true
  end
  if not own then return refuse_decided(self, req, agent, bundle, routed, opened) or true end
  if turn == false then return errors.fail(req, "too_many") or true end
  local code, said, advice, more = ruled(self, req, agent, bundle, opened and own.name, deadline)
  if code == "changed" or code == "asked" then return false, code == "asked" end
  if code then return fail_ruled(self, req, code, said, advice, more) or true end
  local unasked = routed or opened and (opened.guards or #opened.endpoints > 0) and "guarded"     -- for requests that no rule covers
  routed = code == false or unasked
  if plan.echo and self.config.echo and not (opened and opened.rec.demo) then
    refuse(req, agent, "host_not_allowed", ECHO_HOST .. " answers for the demo credential alone")
  elseif opened and skips and skips["credential/" .. own.name] then
    refuse(req, agent, "token_endpoint")    -- an edited match.lua that does not know `skips`
  elseif not opened then
    if routed then
      local code, message, hint, options = judge_domain(self, req, agent, own, deadline, own.domain.posts)
      if code == "changed" then return false end
      if code then
        if refused_codes[code] then refuse(req, agent, code, message) else errors.fail(req, code, message, hint, options) end
        return true
      end
    end
    plan.forward.websocket, plan.forward.http = req.websocket, http_of(self)
    go(self, req, agent, bundle, { own.name }, plan.forward)
  elseif opened.endpoints[1] and at_endpoint(self, opened, req.scheme, req.host, req.port, req.path) then
    refuse(req, agent, "token_endpoint",
      ("credential %s: this is its own token endpoint; the proxy alone talks to it"):format(own.name))
  else
    local again = make_ready(self, req, agent, route, kept, opened, plan, unasked) and not searched and light(self, req, bundle)
    return send(self, req, agent, plan, opened, routed, req.websocket, deadline, again)
  end
  return true
end

--- token: the hash of what the client said, or nil; route: what an ordinary request says beside path, query and fields,
-- as one text; nil for any other.
function M:on_request(req, token_hash, route)
  local deadline = self.time.now() + WAIT_MAX
  local synced, lost = self.config:sync(deadline)
  if not synced then return errors.fail(req, lost) end
  if not route and req.form == "origin" then return own_endpoint(self, req) end
  if not route and req.form == "door" then
    return require(require("host").door() and "web.door" or "web.control").answer(self, req)
  end
  local agent, how, whose = asking(self, token_hash)
  if not agent then return unknown(req, how, whose) end
  if req.vault then
    local _, wrong = vault_of(self, req, agent)
    if wrong then return refuse(req, agent, wrong) end
  end
  local recording, tries = self.config.recording, 0
  if recording and learn(self, agent) then
    recorder.begin(recording, req, agent, function(of) return held_for(self, agent, of) end, self.time.wall_ms())
  end
  while tries < DECIDE_TRIES do
    local done, waited = serve(self, req, agent, route, deadline)
    if done then
      if recording then recorder.done(req) end
      return
    end
    -- Something changed while it waited: everything again, from who asks.
    if waited then deadline = self.time.now() + WAIT_MAX else tries = tries + 1 end
    synced, lost = self.config:sync(deadline + WAIT_MAX)
    if not synced then return errors.fail(req, lost) end
    agent, how, whose = self.config:agent(token_hash)
    if not agent then return unknown(req, how, whose) end
  end
  return errors.fail(req, "injection_unavailable", "what is allowed kept changing while the request waited")
end

--- The door hands its request on as this tenant's (web/door.lua), once it names the gateway's URL. `only`: the credential
-- that must decide; nil: whatever the tenant's bundles say.
function M:on_tenant(req, name, only)
  local again, route = req:again(only)
  if again then return end
  if route and only then route = route .. " " .. only end
  local deadline = self.time.now() + WAIT_MAX
  local tries = 0
  while tries < DECIDE_TRIES do
    local agent, how = self.config:agent_named(name)
    if not agent or agent.kind ~= "tenant" then return refuse(req, nil, "agent_unknown", "this tenant is gone" .. (how and ": " .. how or "")) end
    local done, waited = serve(self, req, agent, route, deadline, only)
    if done then return end
    if not waited then tries = tries + 1 end
    deadline = self.time.now() + WAIT_MAX
    local synced, lost = self.config:sync(waited and deadline or deadline + WAIT_MAX)
    if not synced then return errors.fail(req, lost) end
  end
  return errors.fail(req, "injection_unavailable", "what is allowed kept changing while the request waited")
end

--- A stream that goes on: would it be allowed now, by the same entry? What its head presented is not kept, so among
-- equals the one that carried it counts as presented.
function M:on_rejudge(info)
  if not self.config:sync(self.time.now() + WAIT_MAX) then return true end  -- a store in trouble ends no stream
  local agent
  if info.form == "door" then
    if not require("host").door() then return true end  -- the owner's, on the control socket
    agent = self.config:agent_named(info.agent)
    if info.token and not require("web.door").still(info) then return false end
  elseif info.token then agent = self.config:agent(info.token)
  elseif info.agent then agent = self.config:agent_named(info.agent) end
  if not agent then return false end
  if (info.unsealed or 0) ~= 0 then return sealed_still(self, agent, info) end
  local found = self.config:candidates(agent, info.host)
  if not found then return false end
  if info.form == "connect" then
    local ok, item, bundle = self.sandbox.call("match", self.config.build.match.tunnel, found.all, info.port, agent.off)
    local own = ok and self.config:item(item)
    return relays(agent, own, bundle) and not names_nobody(self, info.token, info.host, agent, bundle, { own.name })
  end
  local own, bundle = decide(self, agent, found, {
    skips = skips_of(self.config:at_token_endpoint(agent, info)),
    method = method_of(info.method, info.websocket), tls = info.scheme == "https", port = info.port,
    readings = function(known) return paths.readings(self.path_readings, info.path, known) end,
    foreign = function(item)
      local candidate = self.config:item(item)
      return candidate ~= nil and foreign_of(self, found, candidate) ~= false and candidate.name ~= info.credential
    end,
    presents = function(item)
      local candidate = self.config:item(item)
      return candidate ~= nil and candidate.name == info.credential
    end,
  })
  if not own or bundle ~= info.bundle then return false end
  local opened = doors.captured(info.token) and not own.domain and self.config:open(own.name)
  if names_nobody(self, info.token, info.host, agent, bundle, own.domain and { own.name } or opened and opened.rec.hosts) then return false end
  if not own.domain and not info.credential then
    local opened = self.config:open(own.name)
    return opened ~= nil and opened.rec.attach == "placeholder:own"  -- with a key of its own
  end
  return (not own.domain and own.name or nil) == info.credential
end

--- An upstream answered 400 or more to a request that carried this credential. `date`: Unix s, by its clock.
function M:on_answer(name, status, www_authenticate, error_type, date, host)
  local opened = self.config:open(name)
  if not opened then return end
  if status == 401 then require("refused").note(self, name, opened.version, host) end
  if status == 401 and opened.rec.from then self.config.elsewhere:rejected(opened) end
  date = opened.pol.clock and require("dates").parse(date)
  if date and (status == 400 or status == 401 or status == 403) then
    require("skew").note(self, name, host, self.time.wall() - date)
  end
  if not opened.pol.refresh then return end
  if token.says_expired(opened.pol, status, www_authenticate, error_type) then self.tokens:rejected(opened) end
  local scopes = token.insufficient(status, www_authenticate)
  if scopes then self.tokens:wants(opened, scopes) end
end

--- Has this token, or this door, an agent at the moment? What is asked then is judged all the same.
function M.knows(token)
  here.config:forget_agents()
  return here.config:agent(token) ~= nil
end

--- Does an entry or a credential of this agent name the host, on whatever port and path? For who must not wait.
function M.names(name, host)
  local config = here.config
  config:sync_now()
  local agent = config:agent_named(name)
  local found = agent and agent.kind ~= "tenant" and config:candidates(agent, host)
  return found and found.list[1] ~= nil or false
end

function M.connect(req) return here:on_connect(req) end
function M.request(req, token_hash, route) return here:on_request(req, token_hash, route) end
function M.rejudge(info) return here:on_rejudge(info) end
function M.answer(...) return here:on_answer(...) end

-- For the commands that decide on a request that nobody sent (lua/cli/decision.lua).
M.parts = {
  decide = decide, off_hint = off_hint, relays = relays, foreign = foreign, at_endpoint = at_endpoint,
  skips_of = skips_of, allowed_message = allowed_message, judge_second = judge_second,
  names_in_line = names_in_line, minted = minted, mint_question = mint_question, inject = inject,
  sealed_in = sealed_in, judge_sealed = judge_sealed, decide_request = decide_request, belongs = belongs, method_of = method_of,
  hides_method = hides_method, judge_posts = judge_posts, body_refused = body_refused,
}

return M
