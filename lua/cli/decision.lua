--- What would happen to a request that nobody sent: `sallyport explain` and `sallyport credential test`. Both decide by
-- the functions of the request path (pipeline.parts), so what they say is what a worker does.
--
-- decision.explain(pipeline | nil, spec), decision.trial(pipeline | nil, spec): nil makes a pipeline on the open store.
local errors = require "errors"
local paths = require "paths"
local variables = require "variables"
local worker = require "worker"
local parts = require("pipeline").parts
local decide, relays, foreign, at_endpoint, skips_of, allowed_message =
  parts.decide, parts.relays, parts.foreign, parts.at_endpoint, parts.skips_of, parts.allowed_message
local off_hint = parts.off_hint
local judge_second, names_in_line, minted, mint_question, inject =
  parts.judge_second, parts.names_in_line, parts.minted, parts.mint_question, parts.inject
local hides_method, judge_posts, body_refused = parts.hides_method, parts.judge_posts, parts.body_refused
local sealed_in, judge_sealed = parts.sealed_in, parts.judge_sealed
local names_exactly = require("pipeline").names_exactly
local M = {}

local WAIT_MAX = 15000      -- ms for the index of what the store holds

local function add_rows(self, rows, trace)
  local seen, by = {}, nil
  for _, note in ipairs(trace) do
    local own = self.config:item(note.item)
    if own then
      local row = { bundle = note.bundle, kind = own.domain and "domain" or "credential", name = own.name, why = note.why }
      if row.why == "it decides" then
        by = by or row.bundle
        if row.bundle ~= by then row.why = ("it decides by %s, which comes first"):format(by) end
      end
      -- An item with several hosts is found by each that covers this one.
      local key = table.concat({ row.bundle, row.kind, row.name, row.why or "" }, "\0")
      if not seen[key] then rows[#rows + 1], seen[key] = row, true end
    end
  end
end

-- Those that would cover the host if a variable had another value.
local function varied(self, rows, agent, host)
  local asked, match = {}, self.config.build.match
  local function differs(bundle, name, label)
    local value = self.config:variable(agent, bundle, name)
    if value and variables.label(value) == label then return false end
    asked[#asked + 1] = { bundle = bundle, why = not value and ("its variable %s is not set in %s"):format(name, bundle)
      or variables.label(value) and ("its variable %s is %s"):format(name, value)
      or ("the value of its variable %s is no label of a host"):format(name) }
    return true
  end
  local ok, all = self.sandbox.call("match", match.candidates, self.config.build.index, agent.bundles, host, differs)
  local got, plain = self.sandbox.call("match", match.candidates, self.config.build.index, agent.bundles, host)
  if not ok or not got or type(all) ~= "table" or type(plain) ~= "table" then return end
  local seen, n = {}, 0
  for _, level in ipairs(plain) do seen[level] = true end
  for _, level in ipairs(all) do
    if not seen[level] then
      n = n + 1
      local trace, before = {}, #rows
      self.sandbox.call("match", match.decide, { level }, {
        method = "GET", tls = true, port = 443, readings = function() return { "/" } end,
        presents = function() return false end,
      }, trace)
      add_rows(self, rows, trace)
      for i = before + 1, #rows do rows[i].why = asked[n] and asked[n].why or rows[i].why end
    end
  end
end

-- Those that cover the host and would count, were their bundle one of the agent's.
local function strangers(self, rows, agent, host)
  local others, seen = {}, {}
  for _, set in pairs(self.config.build.bundle_sets) do
    for bundle in pairs(set) do
      if not agent.in_bundle[bundle] and not seen[bundle] then
        seen[bundle] = true
        others[#others + 1] = bundle
      end
    end
  end
  table.sort(others)
  local match = self.config.build.match
  local ok, list = self.sandbox.call("match", match.candidates, self.config.build.index, others, host,
    self.config:holds(agent))
  if not ok then return end
  local trace, before = {}, #rows
  self.sandbox.call("match", match.decide, list, {
    method = "GET", tls = true, port = 443, readings = function() return { "/" } end,
    presents = function() return false end,
  }, trace)
  add_rows(self, rows, trace)
  for i = before + 1, #rows do
    local name = rows[i].bundle
    rows[i].why = (agent.off[name] and "its bundle %s is disabled" or "its bundle %s is not one of the agent's"):format(name)
  end
end

-- Where no agent is named: one that holds every bundle, `default` first, the others by name.
local function agent_of_all(config)
  local agent, seen = { bundles = {}, in_bundle = {}, off = {}, held = {} }, {}
  for _, set in pairs(config.build and config.build.bundle_sets or {}) do
    for bundle in pairs(set) do
      if not seen[bundle] then seen[bundle], agent.held[#agent.held + 1] = true, bundle end
    end
  end
  table.sort(agent.held, function(a, b)
    if a == "default" or b == "default" then return a == "default" and b ~= "default" end
    return a < b
  end)
  for _, bundle in ipairs(agent.held) do
    if config:bundle_off(bundle) ~= false then agent.off[bundle] = true
    else agent.bundles[#agent.bundles + 1], agent.in_bundle[bundle] = bundle, true end
  end
  return agent
end

local function parse_target(self, text)
  local scheme, rest = text:match("^(%a+)://(.*)$")
  scheme = scheme and scheme:lower()
  if not scheme then scheme, rest = "https", text end
  local websocket = scheme == "ws" or scheme == "wss"
  if websocket then scheme = scheme == "wss" and "https" or "http" end
  local url, why = self.parse_url(scheme .. "://" .. rest)
  if not url then return nil, why or "that is not a URL" end
  url.text = scheme .. "://" .. rest
  return url, websocket
end

-- The request that spec says, of no connection; pcall's. method: its own, unless it stands here.
local function request_of(spec, url, method)
  return pcall(require("example").request, { method = method or spec.method, url = url.text, headers = spec.headers, body = spec.body })
end

-- What can be told of a request that nobody sent: where it has no body, a type's function may want one.
local function mint_answer(self, opened, spec, url, websocket)
  websocket = websocket or spec.method == "WEBSOCKET"
  local ok, req = request_of(spec, url)
  local q = ok and spec.body and mint_question(self, req) or { readings = function() return self.path_readings(url.path) end }
  q.method, q.websocket, q.host, q.query = websocket and "GET" or spec.method, websocket, url.host, url.query
  local code, message, hint = minted(self, opened, q, ok and req:view() or nil, opened.view)
  if code == "mint_denied" then return code, message, hint end
  return nil, not code and message or nil
end

-- Credentials whose clients go to this URL for a token have no part in the request but to answer it, whether their
-- hosts cover it or not.
local function fetchers(self, rows, agent, names)
  local told = {}
  for _, row in ipairs(rows) do told[row.kind .. row.name] = true end
  for _, name in ipairs(names or {}) do
    local rec = self.store.peek("credential", name)
    for _, b in ipairs(not told["credential" .. name] and rec and rec.bundles or {}) do
      if agent.in_bundle[b] then
        rows[#rows + 1] =
          { bundle = b, kind = "credential", name = name, why = "this is its token endpoint; the proxy alone talks to it" }
        break
      end
    end
  end
end

local function stand_in_message(name)
  return ("a request that presents %s's stand-in (sallyport credential sandbox-file %s) is answered by the proxy"):format(name, name)
end

-- What becomes of a request that bears a key of its own: nobody has sent this one.
local function attach_note(rec)
  if not rec.attach then return nil end
  return ("attach=%s: a request with another key than its placeholder %s"):format(rec.attach, rec.attach == "placeholder"
    and "is refused (foreign_credential)" or "goes out as it came, with nothing attached: wider than the credential")
end

local function judge_credential(self, result, own, url, spec, agent, websocket)
  local opened, code, why = self.config:open(own.name)
  if opened then opened, code, why = self.config:filled(opened, agent, result.bundle) end
  if not opened then return code, ("credential %s: %s"):format(own.name, tostring(why)) end
  result.addresses = opened.addresses
  result.type, result.note = opened.pol.name, attach_note(opened.rec)
  if at_endpoint(self, opened, url.scheme, url.host, url.port, url.path) then
    return "token_endpoint", ("this is the token endpoint of %s; the proxy alone talks to it"):format(own.name)
  end
  if url.host == parts.ECHO_HOST and self.config.echo then
    result.echo = true
    if not opened.rec.demo then return "host_not_allowed", parts.ECHO_HOST .. " answers for the demo credential alone" end
  end
  local mints, message, hint = mint_answer(self, opened, spec, url, websocket)
  if mints then return mints, message, hint end
  if message then result.note = ("%s in its answer is sealed: sallyport help sealed"):format(message[1].what) end
  local state = opened.pol.refresh and self.store.peek("state", own.name)
  if opened.pol.connect and not (state and state.obtained_at) then
    result.message = ("allowed, but nobody has connected it yet: sallyport connect %s"):format(own.name)
  elseif state and state.last_error and state.error_version == opened.version then
    local why = require("token").why(state)
    result.message = ("allowed, but its last refresh failed: %s%s"):format(require("token").sentence(state.last_error, state.error_detail), why and ": " .. why or "")
  end
end

-- A request with sealed texts is its credential's, or refused. true, own, code, message, hint | nil: it bears none
local function explain_sealed(self, result, spec, url, agent, websocket)
  local ok, req = request_of(spec, url)
  if not ok or not spec.agent then return nil end
  local sealed, code, message, hint = sealed_in(self, req, agent, self.time.now() + WAIT_MAX)
  if code then return true, nil, code, message, hint end
  if not sealed then return nil end
  local own, bundle, why, opened = judge_sealed(self, { scheme = url.scheme, host = url.host, port = url.port, path = url.path,
    method = spec.method, websocket = websocket }, agent, sealed)
  if not own then return true, nil, bundle, why end
  result.bundle, result.host, result.port, result.tls, result.credential = bundle, url.host, url.port, true, own.name
  result.addresses, result.type = opened.addresses, opened.pol.name
  if sealed.far then result.addresses = sealed.addresses end
  result.exact = names_exactly(sealed.hosts, url.host, self.config:variables(agent, bundle))
  result.decision, result.reason = "allow", "sealed"
  result.note = "it bears a sealed text, which is opened if it is whole and was not revoked; nothing else is attached in its place"
  return true, own
end

-- What becomes of fields that name another host, path or method: code, message | nil, the names of those that go
local function judge_fields(self, spec, url, agent, own, routed)
  local opened = not own.domain and self.config:open(own.name) or nil
  local guarded = opened and (opened.guards or #opened.endpoints > 0) and "guarded"
  local ok, req = request_of(spec, url)
  if not ok then return "bad_request", "these are no fields of a request" end
  local strips = opened and opened.strips[routed or guarded or false] or routed and self.config.routing or {}
  if (req:strip(strips) or opened and opened.pol.targets or names_in_line(req, routed)) and (opened or routed) then
    local code, message = judge_second(self, req, agent, own, routed, opened and opened.pol.targets)
    if code then return code, message end
  end
  local posts = own.domain and own.domain.posts or opened and opened.strips[routed or guarded or false].posts
  local code, message, hint = judge_posts(self, req, own, self.time.now() + WAIT_MAX, posts)
  if code then return code, message, hint end
  local left, gone = {}, {}
  for _, name in ipairs(req:view().headers:names()) do left[name] = true end
  for name in pairs(spec.headers or {}) do
    if not left[name:lower()] then gone[#gone + 1] = name end
  end
  table.sort(gone)
  return nil, gone
end

-- What a rule that is not asked about this method says, for the body of a POST could name one of its own.
local function hidden_rule(self, rule, question, spec, url, tunnel)
  if not spec.body or spec.method ~= "POST" or tunnel or not rule.methods or not require("rules").covers(rule, question, true) then return nil end
  local methods = {}
  for _, m in ipairs(rule.methods) do methods[m] = true end
  local ok, req = request_of(spec, url)
  if ok then return hides_method(self, req, rule, methods) end
end

-- A rule that reads a body, and this one. code, message, hint: it cannot be asked | nil: rules.ask is next
local function feed_rule(self, rule, seen, req, body, readings)
  local most = rule.pol.body and rule.pol.body.max
  if most and most < #body and most < self.config.body_max then
    return body_refused(self, req, "too_large", { max = most, own = true, why = ("rule %s reads it"):format(rule.name) }, "rule " .. rule.name,
      ("sallyport policy edit %s (body = { max })"):format(rule.type))
  end
  local why = require("cli.policy_examples").reads(rule, self.sandbox.call, seen, req, body, readings)
  if why then return "rule_failed", ("rule %s: its script failed"):format(rule.name) end
end

-- The rules of the bundle that would be asked, and what each says of a request that nobody sent: of its head, and of its body, if
-- there is one. What is counted, the server alone knows. code, message, hint of the first that refuses it | nil
local function judge_rules(self, result, spec, url, agent, websocket)
  local rules, list = require "rules", self.config:rules(result.bundle)
  if list == nil then return "rule_failed", "the rules of the bundle cannot be read", "sallyport doctor" end
  if not list then return nil end
  local method = result.tunnel and "CONNECT" or websocket and "WEBSOCKET" or spec.method
  local question = { method = method, host = url.host,
    readings = function() return not result.tunnel and paths.readings(self.path_readings, url.path) or nil end }
  local ok, req = request_of(spec, url, websocket and "GET" or nil)
  if not ok then return nil end
  local body = spec.body
  local seen, shown, now = rules.request({ method = req.method, scheme = url.scheme, host = url.host, port = url.port, path = url.path, websocket = websocket,
    has_body = body ~= nil, length = body and #body }, question, req:view())
  local wall, code, message, hint = self.time.wall(), nil, nil, nil
  result.rules = {}
  for _, rule in ipairs(list) do
    if not code then code, message, hint = hidden_rule(self, rule, question, spec, url, result.tunnel) end
  end
  for _, rule in ipairs(list) do
    if rules.covers(rule, question) then
      local counts, says, refused, why, advice = false, nil, nil, nil, nil
      local with = { agent = spec.agent or "", bundle = result.bundle, credential = result.credential, wall = wall,
        offset = self.time.offset(wall), count = function() counts = true; return 0 end }
      local reads = rule.pol and (rule.pol.body or rule.pol.members)
      now.asked = rule
      if rule.pol and body and not result.tunnel then refused, why, advice = feed_rule(self, rule, seen, req, body, question.readings()) end
      local options
      if not refused then refused, why, advice, options = rules.ask(rule, self.sandbox.call, shown, with) end
      local push = rule.pol and rule.pol.reader and require("pktline").wanted({ method = req.method, has_body = true }, question.readings())
      if (reads or rule.pol and (rule.pol.reader or rule.pol.on_response and not rule.pol.answer)) and result.tunnel then
        refused, why, advice = "rule_denied", ("rule %s: it reads bodies or answers, and nobody can see what goes through a tunnel"):format(rule.name), nil
      elseif (reads or push) and not body then
        refused, says = nil, "it reads the body"
      elseif refused == "approval_timeout" then
        local covers = require("approvals").covers({ websocket = websocket, method = req.method, scheme = url.scheme, host = url.host, port = url.port,
          path = url.path }, result.credential, options.key)
        if agent.id and require("approvals").stands(self.store, agent, rule, covers, wall) then
          refused, says = nil, "a person has allowed it for longer: " .. covers
        else
          says = "it asks a person: " .. why:gsub("^rule [^:]*: a person is asked: ", "")
        end
      elseif refused then
        says = "it refuses: " .. why:gsub("^rule [^:]*: ", "")
      end
      result.rules[#result.rules + 1] = { name = rule.name, type = rule.type,
        says = says or refused and why or counts and "it counts"
          or rule.pol.on_response and not rule.pol.answer and "it is asked about the answer's head" or "it has nothing against it" }
      if refused and not code then code, message, hint = refused, why, advice end
    end
  end
  return code, message, hint
end

--- { decision, status, code, message, hint, reason, bundle, credential, domain, type, considered = { { bundle, kind,
-- name, why } } } | nil, why. spec = { agent = name|nil (then one that holds every bundle), method, url,
-- headers = { name = value } | nil, body = text | nil, presents = the credential whose placeholder is in it | nil }.
function M.explain(pipeline, spec)
  local self = pipeline or worker.build { command = true }
  local synced, lost = self.config:sync(self.time.now() + WAIT_MAX)
  if not synced then return nil, lost end
  local agent, how
  if spec.agent then
    if not self.store.peek("agent", "a/" .. spec.agent) then
      return nil, ("there is no agent '%s'"):format(spec.agent)
    end
    agent, how = self.config:agent_named(spec.agent)
  else
    agent = agent_of_all(self.config)
  end
  local url, websocket = parse_target(self, spec.url)
  if not url then return nil, websocket end
  local result = { agent = spec.agent, method = spec.method, url = spec.url, considered = {} }
  local function deny(code, message, hint)
    result.decision, result.code, result.status = code == "approval_timeout" and "ask" or "deny", code, errors.codes[code][1]
    result.reason = code
    result.message, result.hint = message or errors.codes[code][2], hint or errors.codes[code][3]
    return result
  end
  if not agent then return deny("agent_unknown", how and ("the agent %s is %s"):format(spec.agent, how), how == "disabled" and "sallyport agent enable " .. spec.agent or nil) end
  if spec.method == "TRACE" then return deny("trace") end
  local found, broken = self.config:candidates(agent, url.host)
  if not found then return deny("policy_failed", tostring(broken)) end
  if url.scheme == "https" then
    local ok, item, bundle = self.sandbox.call("match", self.config.build.match.tunnel, found.all, url.port, agent.off)
    local own = ok and self.config:item(item)
    if relays(agent, own, bundle) then
      result.decision, result.bundle, result.domain, result.tunnel = "allow", bundle, own.name, true
      result.host, result.port, result.addresses = url.host, url.port, own.domain.addresses
      result.exact = names_exactly({ own.name }, url.host, self.config:variables(agent, bundle))
      result.reason = own.domain.tunnel == "raw" and "the domain entry relays this port unread, whatever it speaks"
        or "the domain entry relays this port unread: TLS that names this host"
      local code, message, hint = judge_rules(self, result, spec, url, agent, false)
      return code and deny(code, message, hint) or result
    end
  end
  local bears, sealed_own, code, message, hint = explain_sealed(self, result, spec, url, agent, websocket)
  if bears and not sealed_own then return deny(code, message, hint) end
  if bears then
    code, message, hint = judge_rules(self, result, spec, url, agent, websocket)
    return code and deny(code, message, hint) or result
  end
  local trace = {}
  local names = self.config:at_token_endpoint(agent, url)
  local skips, fetcher = skips_of(names), names and names[1]
  local own, bundle, routed = decide(self, agent, found, {
    skips = skips, method = (websocket or spec.method == "WEBSOCKET") and "WEBSOCKET" or spec.method, tls = url.scheme == "https",
    port = url.port, readings = function(known) return paths.readings(self.path_readings, url.path, known) end,
    foreign = url.query and function(item) return (foreign(self, found, agent, item, url.query)) end or nil,
    presents = function(item)
      local own = spec.presents and self.config:item(item)
      return own and not own.domain and own.name == spec.presents or false
    end,
  }, trace)
  add_rows(self, result.considered, trace)
  fetchers(self, result.considered, agent, names)
  varied(self, result.considered, agent, url.host)
  strangers(self, result.considered, agent, url.host)
  if not own and skips then
    return deny("token_endpoint", ("this is the token endpoint of %s; the proxy alone talks to it"):format(fetcher),
      spec.method == "POST" and stand_in_message(fetcher) or nil)
  elseif not own then
    return deny(bundle, allowed_message(bundle, { host = url.host, port = url.port, websocket = websocket }), bundle == "host_not_allowed" and off_hint(agent, routed) or routed)
  end
  result.bundle, result.host, result.port, result.tls = bundle, url.host, url.port, url.scheme == "https"
  local named = own.domain and { own.name } or (self.store.peek("credential", own.name) or {}).hosts
  result.exact = names_exactly(named, url.host, self.config:variables(agent, bundle))
  if not own.domain then
    result.credential = own.name
    local code, message, hint = judge_credential(self, result, own, url, spec, agent, websocket)
    if code then return deny(code, message, hint) end
    result.reason = "credential " .. own.name
  else
    result.domain, result.addresses = own.name, own.domain.addresses
    result.reason = "domain entry " .. own.name
  end
  local list = self.config:rules(bundle)
  routed = routed or list and require("rules").at(list, url.host)[1] ~= nil
  if spec.headers or spec.body or names_in_line(url, routed) then
    local code, fields, advice = judge_fields(self, spec, url, agent, own, routed)
    if code then return deny(code, fields, advice) end
    result.taken_off = fields[1] and fields or nil
  end
  code, message, hint = judge_rules(self, result, spec, url, agent, websocket or spec.method == "WEBSOCKET")
  if code then return deny(code, message, hint) end
  if fetcher and spec.method == "POST" then result.message = stand_in_message(fetcher) .. "; any other goes on" end
  result.decision = "allow"
  return result
end

-- The first bundle of the credential through which it goes there: decide's answer for it, and the bundle. Where it
-- goes nowhere, the last answer.
local function trial_decides(self, opened, url, method, agent)
  local item, second, third
  local bundles = {}
  for _, b in ipairs(opened.rec.bundles or {}) do
    if not agent or agent.in_bundle[b] then bundles[#bundles + 1] = b end
  end
  for _, bundle in ipairs(bundles[1] and bundles or { "" }) do
    local list, match = self.config:alone(opened.rec, url.host, agent, bundle)
    if not list then return nil, "policy_failed", tostring(match) end
    local ok
    ok, item, second, third = self.sandbox.call("match", match.decide, list, {
      method = method, tls = url.scheme == "https", port = url.port,
      readings = function(known) return paths.readings(self.path_readings, url.path, known) end,
      presents = function() return false end,
    })
    if not ok then return nil, "policy_failed", tostring(item) end
    if item then return item, bundle, third end
  end
  return nil, second, ("credential %s does not go there%s"):format(opened.name, third and ": " .. third or "")
end

--- One credential on a request that nobody sent, for `credential test`: the request as it would go out, the TLS
-- identity to send it with, and whether it names this very host; or nil, code, message. Its own record alone is asked whether it covers the URL, so the
-- secret goes nowhere else; whether another one would come first is what `explain` answers.
-- spec = { credential, method, url, headers = { name = value }, deadline,
--          agent = name|nil: whose variables count, before those of the bundle }
function M.trial(pipeline, spec)
  local self = pipeline or worker.build { command = true }
  local opened, code, why = self.config:open(spec.credential)
  if not opened then return nil, code, ("credential %s: %s"):format(spec.credential, tostring(why)) end
  local url, websocket = parse_target(self, spec.url)
  if not url then return nil, "bad_request", websocket end
  local agent, how
  if spec.agent then agent, how = self.config:agent_named(spec.agent) end
  if spec.agent and not agent then return nil, "agent_unknown", ("the agent %s may do nothing%s"):format(spec.agent, how and ": it is " .. how or "") end
  local item, second, third = trial_decides(self, opened, url, websocket and "WEBSOCKET" or spec.method, agent)
  if not item then return nil, second, third end
  opened, code, why = self.config:filled(opened, agent, second)
  if not opened then return nil, code, ("credential %s: %s"):format(spec.credential, tostring(why)) end
  opened, code, why = self.config:fetched(opened, spec.deadline, agent, second)
  if not opened then return nil, code, why.message end
  if at_endpoint(self, opened, url.scheme, url.host, url.port, url.path) then
    return nil, "token_endpoint", "this is its own token endpoint"
  end
  local cred, info = opened.view, nil
  if opened.pol.refresh then
    self.tokens:again(opened.base or opened)
    cred, code, info = self.tokens:fresh(opened.base or opened, spec.deadline)
    if not cred then return nil, code, info and info.message, info and info.why end
  end
  local req = require("example").request { method = spec.method, url = spec.url, headers = spec.headers or {} }
  if req:strip(opened.strips[third ~= false]) and agent then
    local other, why_other = judge_second(self, req, agent, self.config:item { id = "credential/" .. spec.credential },
      third ~= false, opened.pol.targets)
    if other then return nil, other, why_other end
  end
  local denied, mints = minted(self, opened, mint_question(self, req), req:view(), cred)
  if denied then return nil, denied, mints end
  local done, failed, message = inject(self, req, nil, opened, cred, nil, true)
  if not done then return nil, failed, message end
  return req, opened.tls, names_exactly(opened.rec.hosts, url.host, self.config:variables(agent, second))
end

return M
