--- A person's consent: the address to open, the browser that comes back, the exchange, the end of a grant.
-- RFC 6749 4.1 with PKCE (RFC 7636, S256 always), the callback's `state` and `iss` (RFC 9207), loopback redirects
-- (RFC 8252 7.3), the device grant (RFC 8628), revocation (RFC 7009). For commands: what waits, waits for a person.
--
-- authorization.env(ctx) -> env = { host, callback, time, tokens, config, policy, secret, form, uri, http, random }
-- Then, in this order:
--   authorization.open(env, name)                  -> opened: the credential, as config.open gives it
--   authorization.listen(env, redirect_uri, port)  -> listener, redirect_uri
--   authorization.ask(env, opened, { redirect_uri, scopes, state, verifier }) -> asked = { url, state, verifier, redirect_uri, … }
--   authorization.wait(env, listener, asked, deadline, note) -> code, answer = function(ok, text)
--   authorization.pasted(env, asked, text)         -> code
--   authorization.exchange(env, opened, grant)     -> answer, sent_at; grant = authorization.code_grant(asked, code)
--   env.tokens:connected(opened, answer, sent_at, scopes) stores the answer
-- Beside these: device and poll (RFC 8628), adopt (a pasted refresh token), revoke and disconnect.
-- Failures are nil, code, detail. M.say[code] is a sentence for those that only this module has.
local M = {}

M.PORT = 7082                          -- fixed: most providers want the address registered exactly
M.REDIRECT = "http://127.0.0.1:7082/callback"
local EXCHANGE_MAX = 15000             -- ms for one token request and its name look-up
local REVOKE_MAX = 7000                -- ms for one revocation: two of them end within the lease that `hold` took
local HOLD_MAX = 25000                 -- ms to wait for a refresh that is in flight: longer than a lease
local POLL_DEFAULT, POLL_MAX = 5, 60   -- s between two device polls (RFC 8628 3.2); what a server may ask at most
local DEVICE_LIFE_MAX = 1800           -- s: no person takes longer
local FETCH_MAX = 10000                -- ms for its secrets from elsewhere
local ADOPT_MAX = 30000                -- ms for a pasted refresh token: one refresh, or another's lease and then ours

--- Failures before anything of a refresh token went out.
M.unsent = { unreachable = true, tls = true, address_blocked = true, clock_unset = true, held = true, full = true }

M.say = {
  wrong_state = "its `state` is not ours: it belongs to another sign-in, or to none",
  wrong_issuer = "it comes from another authorization server than the one that was asked (RFC 9207)",
  no_issuer = "it does not say which server it comes from (iss), and this one promised to",
  no_code = "the address that it ended on has neither a code nor an error: it is needed whole, with all behind the '?'",
  malformed_callback = "it repeats a parameter, or cannot be read",
  in_use = "the port is in use",
  not_loopback = "it is not an address of this machine, so nothing can wait there",
  changed = "the credential's client or token address changed meanwhile",
  absent = "the credential was removed meanwhile",
  newer_grant = "it was connected anew meanwhile, and that grant stays",
  taken = "it was pasted before and is spent; what the server gave for it is in use",
  full = "there is no room on the disk",
  store = "the store could not be written",
  held = "another process renews it, or ends it, just now",
}

--- What commands need to ask a server, on the store that is open.
function M.env(ctx)
  local ok, why = require("cli.outside").configure(ctx)
  if not ok then return nil, why end
  return M.env_of(require("worker").build { command = true }, ctx.host)
end

--- The same of a process that has its pipeline: a worker at the door.
function M.env_of(pipeline, host)
  return {
    host = host, callback = function(...) return require("cli.callback").open(host, ...) end, time = require "time", tokens = pipeline.tokens, config = pipeline.config,
    policy = require "policy", policies = require "policy_store", secret = require "secret", core = require "secret.core", form = require "form",
    uri = require "uri", http = require "http", store = require "store",
    random = function() return (host.random_token("")) end,   -- 256 bits in base64url: RFC 7636 4.1's length
  }
end

--- The credential, ready to be asked for. nil, code, why
function M.open(env, name)
  local opened, code, why = env.config:open(name)
  if not opened then return nil, code, why end
  if not opened.pol.connect then return nil, "no_connect", opened.pol.name end
  opened, code, why = env.config:fetched(opened, env.time.now() + FETCH_MAX)
  if not opened then return nil, code, why.message end
  return opened
end

--- Why it failed, in a sentence that is ours.
function M.sentence(code, detail)
  if code == "denied" then return "the authorization server says " .. tostring(detail) end
  return M.say[code] or require("token").sentence(code, detail)
end

-- ---- the consent's address -----------------------------------------------------------------------

--- RFC 7636 4.2: S256 of a verifier.
function M.challenge(secret, verifier)
  return secret.base64url(secret.sha256(verifier))
end

local function sorted(map)
  local names = {}
  for name in pairs(map or {}) do names[#names + 1] = name end
  table.sort(names)
  return names
end

--- The address for the browser, and what its answer is judged by. cred: the credential's view.
function M.ask(env, opened, spec)
  local cred = opened.view
  local asked = {
    state = spec.state or env.random(), verifier = spec.verifier or env.random(), redirect_uri = spec.redirect_uri, issuer = cred.issuer,
    require_iss = cred.require_iss, authorization_url = cred.authorization_url, scopes = spec.scopes,
  }
  local query = {
    { "response_type", "code" }, { "client_id", cred.client_id }, { "redirect_uri", spec.redirect_uri },
    { "state", asked.state },
  }
  if cred.pkce ~= false then
    query[#query + 1] = { "code_challenge", M.challenge(env.secret, asked.verifier) }
    query[#query + 1] = { "code_challenge_method", "S256" }
  else
    asked.verifier = nil
  end
  if #spec.scopes > 0 then
    query[#query + 1] = { cred.scope_parameter or "scope", table.concat(spec.scopes, cred.scope_separator or " ") }
  end
  if cred.audience then query[#query + 1] = { "audience", cred.audience } end
  for _, url in ipairs(cred.resource or {}) do query[#query + 1] = { "resource", url } end
  for _, name in ipairs(sorted(cred.params)) do query[#query + 1] = { name, cred.params[name] } end
  local base = cred.authorization_url
  local join = not base:find("?", 1, true) and "?" or base:find("[?&]$") and "" or "&"
  asked.url = base .. join .. env.form.encode(query)
  return asked
end

-- ---- the callback --------------------------------------------------------------------------------

-- scheme://host:port of an address, or the text itself where it is none.
local function origin(env, text)
  local url = env.http.parse_url(text)
  return url and ("%s://%s:%d"):format(url.scheme, url.host, url.port) or text
end

-- RFC 9207 2.4. Where the operator named no issuer, the consent's own origin is what an answer may come from.
local function judge_issuer(env, asked, iss)
  if not iss then return not asked.require_iss or nil, "no_issuer" end
  if asked.issuer then return iss == asked.issuer or nil, "wrong_issuer" end
  return origin(env, iss) == origin(env, asked.authorization_url) or nil, "wrong_issuer"
end

--- The query of the address that the browser came back to: the code as a secret | nil, code. "denied" comes with the
-- server's registered code.
function M.judge(env, asked, query)
  local pairs_ = env.uri.parse_query(query)
  local seen = {}
  for _, p in ipairs(pairs_ or {}) do
    if seen[p[1]] ~= nil and (p[1] == "code" or p[1] == "state" or p[1] == "iss" or p[1] == "error") then
      return nil, "malformed_callback"      -- RFC 6749 3.1: none of them twice
    end
    seen[p[1]] = p[2]
  end
  if not pairs_ then return nil, "malformed_callback" end
  if seen.state ~= asked.state then return nil, "wrong_state" end
  local ok, why = judge_issuer(env, asked, seen.iss)
  if not ok then return nil, why end
  if seen.error then return nil, "denied", require("oauth").code(seen.error) end
  if not seen.code or seen.code == "" then return nil, "no_code" end
  return env.core.of(seen.code)
end

--- What the browser ended on, as a person pasted it: the whole address, or CODE#STATE where a page shows that.
function M.pasted(env, asked, text)
  text = text:gsub("^%s+", ""):gsub("%s+$", "")
  local code, state = text:match("^([^%s?#&]+)#([^%s?#&]+)$")
  if code and not text:find("://", 1, true) then
    return M.judge(env, asked, env.form.encode { { "code", code }, { "state", state } })
  end
  local query = text:match("%?([^#]*)")
  if not query then return nil, "no_code" end
  return M.judge(env, asked, query)
end

local PAGE = [[<!doctype html><meta charset="utf-8"><title>Sallyport</title>
<style>body{font:16px/1.5 system-ui,sans-serif;max-width:32em;margin:15vh auto;padding:0 1em}</style>
<h1>%s</h1><p>%s</p>
]]

--- A page of ours; both texts are our own words, never the server's.
function M.page(title, text)
  local function safe(s) return (s:gsub("[&<>\"]", { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;" })) end
  return PAGE:format(safe(title), safe(text))
end

--- Opens the listener for a redirect address: listener, the address with its port | nil, code, why. A port that is
-- given (0: any) replaces the address's own.
function M.listen(env, redirect_uri, port)
  local url = env.http.parse_url(redirect_uri)
  local host = url and url.host == "localhost" and "127.0.0.1" or url and url.host
  if not url or url.scheme ~= "http" or not (host:find("^127%.%d+%.%d+%.%d+$") or host == "::1") then
    return nil, "not_loopback"
  end
  local listener, bound = env.callback(host, port or url.port)
  if not listener then return nil, bound == "in_use" and bound or "listen", bound end
  if bound ~= url.port then
    local shown = url.host:find(":", 1, true) and "[" .. url.host .. "]" or url.host
    redirect_uri = ("http://%s:%d%s%s"):format(shown, bound, url.path, url.query and "?" .. url.query or "")
  end
  return listener, redirect_uri
end

-- Whether a request is for the callback: by the book, since any page in the browser can make it ask us things.
local function wanted(env, asked, req)
  local url = env.http.parse_url(asked.redirect_uri)
  local host, port = env.http.authority(req.host)
  host = host and env.http.canonical_host(host)
  return req.method == "GET" and req.path == url.path and host == url.host and (port or 80) == url.port
end

--- Waits for the browser: the code, a function that answers it | nil, code, detail. `note(text)` hears of requests that
-- are not ours: they get an answer and change nothing, or any web page could end a sign-in.
function M.wait(env, listener, asked, deadline, note)
  local function answer(status, title, text) listener:answer(status, M.page(title, text)) end
  while true do
    local req, why = listener:next(deadline)
    if not req then return nil, why end
    if not wanted(env, asked, req) then
      answer(404, "Nothing here", "This address waits for one answer of the authorization server.")
    else
      local code, bad, detail = M.judge(env, asked, req.query)
      if code then
        return code, function(ok, text)
          answer(ok and 200 or 400, ok and "Connected" or "Not connected", text)
        end
      end
      answer(400, "Not connected", "The terminal says why. You can close this window.")
      if bad ~= "wrong_state" and bad ~= "malformed_callback" then return nil, bad, detail end
      note("a request came that is not the answer: " .. M.say[bad])
    end
  end
end

-- ---- the exchange --------------------------------------------------------------------------------

--- RFC 6749 4.1.3 and RFC 7636 4.5.
function M.code_grant(asked, code)
  local out = { { "grant_type", "authorization_code" }, { "code", code }, { "redirect_uri", asked.redirect_uri } }
  if asked.verifier then out[4] = { "code_verifier", asked.verifier } end
  return out
end

--- Trades a grant, or a refresh token (state), for tokens, the type's own way: answer, sent_at | nil, code, detail.
function M.exchange(env, opened, grant, state)
  local view = env.policy.record_view(opened.pol, opened.rec, state)
  view.grant = grant
  local sent_at, deadline = env.time.wall(), env.time.now() + EXCHANGE_MAX
  local answer, code, detail = env.policy.refresh(opened.pol, view, env.tokens.net_for(opened, deadline), deadline)
  if not answer then return nil, code, detail end
  if not answer.secrets or answer.secrets.access_token == nil then return nil, "no_access_token" end
  return answer, sent_at
end

--- The scopes for a consent: the credential's own, and those asked for before. Behind them, those that an API wants besides:
-- an upstream said so to an agent's request, so that they are asked for where a person says so, and not before.
function M.scopes(env, opened)
  local token = require "token"
  local state, more = env.store.peek("state", opened.name) or {}, {}
  local scopes = token.union(opened.view.scopes, state.scopes)
  local all = token.union(scopes, state.wanted)
  table.move(all, #scopes + 1, #all, 1, more)
  return scopes, more
end

-- ---- the device grant (RFC 8628) -----------------------------------------------------------------

local DEVICE_EXPECT = {
  device_code = "secret", user_code = "string", verification_uri = "string", verification_uri_complete = "string",
  verification_url = "string",      -- Google's name for it
  expires_in = "number", interval = "number", error = "code",
}

--- Asks for a code that a person types elsewhere: { user_code, uri, complete, grant, interval, expires } | nil, code.
function M.device(env, opened, scopes)
  local cred = opened.view
  if not cred.device_authorization_url then return nil, "no_device_url" end
  local client, code, detail = env.policy.client(opened.pol, cred)
  if not client then return nil, code, detail end
  local form = { { "scope", table.concat(scopes, cred.scope_separator or " ") } }
  for _, url in ipairs(cred.resource or {}) do form[#form + 1] = { "resource", url } end
  if client.method == "basic" then form[#form + 1] = { "client_id", client.id } end   -- 3.1 wants it whatever else
  local deadline = env.time.now() + EXCHANGE_MAX
  local answer
  answer, code, detail = env.tokens.net_for(opened, deadline).post(cred.device_authorization_url,
    { client = client, form = form, expect = DEVICE_EXPECT }, deadline)
  if not answer then return nil, code, detail end
  local v, oauth = answer.values or {}, require "oauth"
  if v.error ~= nil then return nil, oauth.code(v.error) end
  local uri = v.verification_uri or v.verification_url
  if answer.status ~= 200 or v.device_code == nil or type(v.user_code) ~= "string" or type(uri) ~= "string" then
    return nil, answer.status >= 400 and "refused" or "malformed"
  end
  return {
    user_code = v.user_code, uri = uri, complete = v.verification_uri_complete,
    interval = math.min(oauth.lifetime(v.interval, POLL_DEFAULT), POLL_MAX),
    expires = env.time.now() + 1000 * oauth.lifetime(v.expires_in, DEVICE_LIFE_MAX, DEVICE_LIFE_MAX),
    grant = { { "grant_type", "urn:ietf:params:oauth:grant-type:device_code" }, { "device_code", v.device_code } },
  }
end

--- Asks until the person has decided: answer, sent_at | nil, code, detail (RFC 8628 3.5).
function M.poll(env, opened, device)
  local pause = device.interval
  while true do
    env.time.sleep(pause * 1000)
    if env.time.now() >= device.expires then return nil, "expired_token" end
    local answer, code, detail = M.exchange(env, opened, device.grant)
    if answer then return answer, code end
    if code == "slow_down" then
      pause = math.min(pause + 5, POLL_MAX)
    elseif code == "timeout" or code == "unreachable" or code == "cut" or code == "unavailable" then
      pause = math.min(pause * 2, POLL_MAX)
    elseif code ~= "authorization_pending" then
      return nil, code, detail
    end
  end
end

-- ---- tokens that a person brings -----------------------------------------------------------------

-- Takes back what `adopt` put: the person still has what was pasted. true: a worker, which an agent's request may have
-- set to work meanwhile, has made a token of it, or is about to: then it stays, or a token that came would be lost.
local function give_up(env, name, deadline)
  local token = require "token"
  while true do
    local cred, state = env.store.peek("credential", name), env.store.peek("state", name)
    if not cred or not state then return false, "changed" end       -- removed by somebody else
    if state.expires_at then return true end
    local lease = env.store.peek("lease", name)
    local code
    if not token.lease_lives(lease, env.time.boot(), env.time.boot_id()) then
      local ok
      ok, code = env.store.commit({
        { op = "del", db = "credential", key = name, version = cred.version },
        { op = "del", db = "state", key = name, version = state.version },
        { op = "del", db = "lease", key = name, version = lease and lease.version or nil },
      }, deadline)
      if ok then return false end
      if code ~= "conflict" then return false, code end
    end
    if env.time.now() >= deadline then return true end
    env.time.sleep(50)
  end
end

--- Keeps a new credential together with tokens from elsewhere: true | nil, code, sentence. A refresh token is exercised
-- at once, by the same steps as any refresh (an intent before it is sent, the answer kept until it is stored), so that
-- a successor is never lost; where the server does not take it, nothing is kept.
-- ops: what puts the credential's record; secrets: { access_token =, refresh_token = }
function M.adopt(env, name, ops, secrets)
  local now = env.time.wall()
  local plain = { credential = name, rotation = secrets.refresh_token and 1 or 0, connected_at = now }
  plain.pasted = secrets.refresh_token and env.store.mark(secrets.refresh_token)
  if not secrets.refresh_token then
    local life = 10 * 366 * 86400       -- nobody said when it ends: the API will
    plain.obtained_at, plain.expires_at, plain.fresh_until = now, now + life, now + life
  end
  local record = ops[1].plain
  local pol = env.policies.load(record.type)
  plain.earner = require("token").earner(pol, record)
  ops[#ops + 1] = { op = "put", db = "state", key = name, plain = plain, secrets = secrets }
  ops[#ops + 1] = { op = "del", db = "lease", key = name }
  local ok, code = env.store.commit(ops, env.time.now() + ADOPT_MAX)
  if not ok then return nil, code end
  if not secrets.refresh_token then return true end
  local opened, why, sentence = env.config:open(name)
  local view, info
  if opened then view, why, info = env.tokens:fresh(opened, env.time.now() + ADOPT_MAX) end
  if view then return true end
  local kept
  kept, code = give_up(env, name, env.time.now() + ADOPT_MAX)
  if kept then return true end
  return nil, info and info.error or why or code, info and info.message or sentence
end

-- A pasted refresh token for what the server gives: answer, sent_at | nil, code, detail. Under the lease: nobody spends
-- one of this credential meanwhile, and a command that died leaves the token alone while its answer may still come.
-- "taken": the grant began with it, perhaps while we waited for the lease.
local function exercise(env, opened, refresh_token, mark)
  local name = opened.name
  local held, code = env.tokens:hold(name, env.time.now() + HOLD_MAX)
  if not held and code ~= "absent" and code ~= "damaged" then return nil, code end
  if held and held.pasted == mark then return nil, "taken" end
  if not env.tokens:may_send(name) then return nil, "held" end
  local answer, second, detail = M.exchange(env, opened, nil, { refresh_token = refresh_token })
  if not answer then return nil, second, detail end
  -- One that is not rotated stays in force (RFC 6749 6).
  answer.secrets.refresh_token = answer.secrets.refresh_token or refresh_token
  return answer, second
end

--- Puts tokens from elsewhere in the place of a grant: true | nil, code, detail. A refresh token is exercised first;
-- whatever fails leaves record and grant as they were, and "unstored" says that it was spent for nothing. One that the
-- grant began with is spent and not sent again ("taken"): a server that sees it twice ends the grant (RFC 9700 4.14.2).
-- build() -> the operation that puts the credential's record; again where somebody else wrote first. more() -> operations that are
-- committed with it | nil.
function M.replace(env, name, build, secrets, more)
  local op = build()
  local rec = { secrets = op.secrets, version = op.version }
  for k, v in pairs(op.plain) do rec[k] = v end
  local opened, code, detail = env.config:opened_of(name, rec)
  if not opened then return nil, code, detail end
  local answer, sent_at = { secrets = { access_token = secrets.access_token }, expires_at = math.huge }, env.time.wall()
  local mark = secrets.refresh_token and env.store.mark(secrets.refresh_token)
  if mark then
    if (env.store.peek("state", name) or {}).pasted == mark then return nil, "taken" end
    answer, sent_at, detail = exercise(env, opened, secrets.refresh_token, mark)
  end
  local ok = answer ~= nil
  if answer then
    ok, code = env.tokens:connected(opened, answer, sent_at, nil, { build = build, pasted = mark, more = more })
    if not ok then code, detail = "unstored", code end
  else
    code = sent_at
  end
  env.tokens:release(name)
  return ok or nil, code, detail
end

-- ---- the end of a grant --------------------------------------------------------------------------

-- One token at the revocation endpoint. RFC 7009 2.2: 200, for tokens that are dead already too; a server that cannot
-- revoke access tokens says unsupported_token_type (2.2.1), and they end by themselves.
local function revoke_one(env, opened, client, hint, token)
  local deadline = env.time.now() + REVOKE_MAX
  local answer, code, detail = env.tokens.net_for(opened, deadline).post(opened.view.revocation_url,
    { client = client, form = { { "token", token }, { "token_type_hint", hint } }, body = opened.view.token_body,
      expect = { error = "code" } }, deadline)
  if not answer then return nil, code, detail end
  if answer.status >= 200 and answer.status < 300 then return true end
  local said = answer.values and answer.values.error
  if said == "unsupported_token_type" then return true end
  if said then return nil, require("oauth").code(said) end
  return nil, (answer.status == 429 or answer.status >= 500) and "unavailable" or "refused"
end

--- Revokes both tokens: true | nil, code, detail. The refresh token goes first: with it goes the grant.
function M.revoke(env, opened, state)
  local client, code, detail = env.policy.client(opened.pol, opened.view)
  if not client then return nil, code, detail end
  for _, hint in ipairs { "refresh_token", "access_token" } do
    local token, ok = (state.secrets or {})[hint], nil
    if token then
      ok, code, detail = revoke_one(env, opened, client, hint, token)
      if not ok then return nil, code, detail end
    end
  end
  return true
end

--- Ends the grant: "revoked", "forgotten" (no revocation_url) or "nothing" | nil, code, detail: the server did not
-- answer as it should, and the grant is kept unless `force`.
function M.disconnect(env, opened, force)
  local state, code = env.tokens:hold(opened.name, env.time.now() + HOLD_MAX)
  if not state then
    if code ~= "absent" and code ~= "damaged" then return nil, code end
    if code == "absent" then
      env.tokens:release(opened.name)
      return "nothing"
    end
    env.tokens:forget(opened.name)
    return "forgotten"
  end
  local held = state.secrets and next(state.secrets) ~= nil     -- else a note that it was never connected
  local ours, detail = require("token").ours(opened, state), nil
  local done = held and (opened.view.revocation_url and ours and "revoked" or "forgotten") or "nothing"
  if held and not ours then code = "other_client" end       -- this server never gave it
  if done == "revoked" then
    local ok
    ok, code, detail = M.revoke(env, opened, state)
    if not ok then
      if not force then
        env.tokens:release(opened.name)
        return nil, code, detail
      end
      done = "forgotten"
    end
  end
  local ok, why = env.tokens:forget(opened.name, state)
  if not ok then return nil, why == "changed" and "newer_grant" or "store", why end
  return done, code
end

return M
