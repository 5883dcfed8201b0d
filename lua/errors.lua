--- What the caller sees when it fails: one row a code, as DESIGN's table has it.
-- errors.fail(req, code [, message [, hint [, options]]]) ends the request with that code's status.
-- The message says what happened, the hint what would be allowed or what to do. Neither ever holds a
-- secret, a header value or text that an upstream wrote. options = { close = bool, retry_after = seconds, fields = { { name, value } … },
-- status = in the place of the code's own, more = further members, as req:fail has them }.
local M = {}

local LIST = "GET /discover on the proxy lists what this agent may reach"
M.LIST = LIST

M.codes = {
  bad_request      = { 400, "the request is malformed", "send it as RFC 9112 has it" },
  ambiguous_path   = { 400, "servers read this path in different ways, and they lead to different decisions",
                       "send the path without percent-encoded slashes, dot segments, backslashes, doubled slashes or ;parameters" },
  host_not_allowed = { 403, "this host is not allowed", LIST .. "; POST /v1/proposals there asks a person for more" },
  service_disabled = { 403, "what allows this host is disabled", "the operator can enable it: sallyport credential enable, sallyport domain enable" },
  method_not_allowed = { 403, "this method is not allowed here", LIST },
  path_not_allowed = { 403, "this path is not allowed", LIST },
  rule_denied      = { 403, "a rule of the bundle refuses this request", LIST },
  rule_failed      = { 403, "a rule of the bundle failed", "the operator sees where in the server's log" },
  approval_timeout = { 403, "nobody answered the question whether this may go on", "send the same request again once it was answered" },
  mint_denied      = { 403, "this request would make a further credential",
                       "the operator can allow it: sallyport credential set NAME mint=allow" },
  foreign_credential = { 403, "this request bears a key of its own, where a credential of the proxy's is attached",
                       "leave it out, or send the placeholder in its place" },
  sealed_elsewhere = { 403, "this sealed text is not for this request",
                       "ask the API for a new one, as the agent that is to use it, and send it to that API" },
  sealed_expired   = { 403, "this sealed text has ended", "ask the API for a new one" },
  forbidden        = { 403, "this agent does not hold the vault that it names: a vault is a bundle here",
                       "name one of the agent's bundles, or none" },
  vault_not_found  = { 404, "there is no vault of the name that X-Vault has: a vault is a bundle here",
                       "name one of the agent's bundles, or none" },
  token_endpoint   = { 403, "this is the credential's own token endpoint; the proxy alone talks to it",
                       "call the API itself: its token is kept fresh for you" },
  address_blocked  = { 403, "this host's address is not publicly reachable",
                       "the operator can allow it with --address CIDR on the credential or domain entry" },
  agent_unknown    = { 403, "this agent's token is unknown, expired or revoked",
                       "the operator can make a new one: sallyport agent rotate NAME" },
  trace            = { 405, "TRACE would return the credential to the caller", "use GET" },
  body_too_large   = { 413, "the body is too large for a credential that must read it whole", "send less at once" },
  head_too_large   = { 431, "the request's head is too large", "send fewer or shorter headers" },
  misdirected      = { 421, "Host or target is not the host of this tunnel", "open a tunnel to that host" },
  too_many         = { 429, "the agent's share of connections or requests is used up", "wait for one to finish" },
  injection_failed = { 502, "the credential could not be applied", "the operator can look at it: sallyport credential test NAME" },
  oauth_refresh_failed = { 502, "no token could be had for the credential",
                       "the operator can mend it: sallyport credential test NAME" },
  oauth_not_connected = { 502, "the credential has not been connected yet", "the operator can connect it" },
  seal_failed      = { 502, "the answer could not be sealed: the secret that it made was thrown away",
                       "the operator sees which member it lacks: sallyport log; mint=allow hands it out in clear" },
  policy_failed    = { 502, "a policy script failed", "the operator sees where: sallyport credential test NAME, and the server's log" },
  upstream_unreachable = { 502, "the upstream cannot be reached", "check the host name, or try later" },
  upstream_proxy   = { 502, "the proxy through which this network is left lets nothing through to that host",
                       "the operator sets it: sallyport set upstream-proxy; sallyport set upstream-no-proxy HOST does without it" },
  upstream_tls     = { 502, "TLS with the upstream failed", "the operator can add a root: sallyport set upstream-ca FILE" },
  injection_unavailable = { 503, "the credential's token cannot be renewed right now", "retry later" },
  store_unavailable = { 503, "the store cannot be read right now", "retry later" },
  clock_unset      = { 503, "this machine's clock is not set, so that no certificate can be checked", "retry later" },
  draining         = { 503, "the proxy is shutting down", "retry on a new connection" },
  upstream_timeout = { 504, "the upstream did not answer in time", "retry later" },
}

local RETRY_AFTER = 1  -- seconds, where nobody knows better: every 503 and 429 carries one

--- The status of a code; raises on one that is not in the table, which is a bug of ours.
function M.status(code)
  return assert(M.codes[code], code)[1]
end

--- What to do about a code, with the name of the credential that it is about.
function M.hint(code, name)
  return (M.codes[code][3]:gsub("NAME", name))   -- a name has no '%'
end

--- What `fail` tells of a request and its code while requests are recorded: heard(req, code) (recorder.lua).
M.heard = nil

function M.fail(req, code, message, hint, options)
  local row = assert(M.codes[code], code)
  if M.heard then M.heard(req, code) end
  local status = row[1]
  if status == 503 or status == 429 then
    options = { retry_after = options and options.retry_after or RETRY_AFTER, close = options and options.close }
  end
  return req:fail(options and options.status or status, code, message or row[2], hint or row[3], options)
end

--- A page of the proxy's own, which nobody keeps.
function M.page(req, status, kind, text)
  return req:respond(status, { { "Content-Type", kind }, { "Cache-Control", "no-store" } }, text)
end

--- 407: the challenge on the proxy port, with an empty body; git, Java and Chromium answer it.
function M.challenge(req, code)
  return req:fail(407, code)
end

--- A host as a message or URL shows it: IPv6 in brackets.
function M.host(host) return host:find(":", 1, true) and "[" .. host .. "]" or host end

--- A text as one value of a log line.
function M.quote(text)
  return '"' .. tostring(text):gsub('[%c"\\]', "?"):sub(1, 300) .. '"'
end

--- What of a script's error may be logged: where it was, and what Lua itself says. A script's own text may quote the
-- request.
function M.place(message)
  local where, text = tostring(message):match("^(policies/[%w_]+%.lua:%d+): ([^\n]*)")
  if not where then return tostring(message):match("^policies/[%w_]+%.lua[:%d]*") or "script error" end
  for _, own in ipairs { "^attempt to ", "^bad argument ", "^used more than ", "^apply returned ", "^refresh returned " } do
    if text:find(own) then return where .. ": " .. text end
  end
  return where
end

return M
