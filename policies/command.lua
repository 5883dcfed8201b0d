--- Headers that a program of the operator's prints: for keys that something else hands out.
-- RFC 8259 (a JSON object of texts, on standard output), RFC 9110 section 5 (names and values of fields).
--
-- For: what `headersHelper` of Claude Code's MCP settings does; vaults, Kerberos, in-house token services.
--   sallyport serve --helpers /usr/local/lib/sallyport
--   sallyport credential add mcp --type command --host mcp.example.com program=mcp-headers arguments="--team blue" ttl=900
-- Fields: program, a file's name in the folder that `serve --helpers DIR` names; arguments, parted by spaces, in quotes
--         where they hold some; ttl, seconds for which its headers are used; timeout, seconds that it may take.
-- The program runs without a shell, with an empty environment, in /, as the user of the proxy; it inherits no open file
-- and nothing of the store. It and the folder belong to root or that user and are writable by nobody else; links are not
-- followed. It prints at most 64 KiB and exits with 0; what it writes to standard error is thrown away. It runs once for
-- all who wait, and again after half of a ttl under ten minutes, or when an upstream answers 401. Whatever it started
-- and left running (an agent, a cache) is killed when it ends: what left its process group as well, but then only once no
-- other such program runs in that worker.
local function words(text)
  local quoted = lpeg.P'"' * lpeg.C((1 - lpeg.P'"')^0) * lpeg.P'"' + lpeg.P"'" * lpeg.C((1 - lpeg.P"'")^0) * lpeg.P"'"
  local plain = lpeg.C((1 - lpeg.S" \"'")^1)
  return (lpeg.Ct((lpeg.P" "^0 * (quoted + plain) * #(lpeg.P" " + -1))^0 * lpeg.P" "^0) * -1)
    :match(text)
end

-- Written by the proxy itself, or never passed on.
local refused = {
  host = true, connection = true, ["content-length"] = true, ["transfer-encoding"] = true, expect = true, upgrade = true,
  te = true, trailer = true, ["keep-alive"] = true,
}

-- A header's name as a name of the state, and back: in small letters, so that capitals are free.
local function kept_as(name) return "h_" .. name:gsub("_", "U"):gsub("-", "_") end
local function name_of(kept) return (kept:sub(3):gsub("_", "-"):gsub("U", "_")) end

return {
  kind   = "type",
  api    = 1,
  name   = "command",
  title  = "Headers that a program prints",
  programs = true,
  fields = {
    { name = "program", required = true, help = "Its name in the folder of serve --helpers" },
    { name = "arguments", default = "", help = "Parted by spaces; \"…\" or '…' around one that holds some" },
    { name = "ttl", type = "integer", default = 300, min = 2, max = 30 * 86400, help = "Seconds that its headers are used" },
    { name = "timeout", type = "integer", default = 8, min = 1, max = 9, help = "Seconds that it may take" },
  },

  validate = function(cred)
    if not cred.program:find("^[%w_][%w_.+-]*$") then
      return nil, "program", "is a file's name in the folder of serve --helpers, not a path"
    end
    local list = words(cred.arguments)
    if not list then
      return nil, "arguments", "has a quote that is not closed, or stands inside a word"
    end
    if #list > 60 then return nil, "arguments", "is more than 60 words" end
    return true
  end,

  apply = function(req, cred)
    local sent = req.headers:names()
    for kept, value in pairs(cred.state) do
      if kept:find("^h_") then
        local name = name_of(kept)
        for _, other in ipairs(sent) do
          if other:lower():gsub("_", "-") == name:gsub("_", "-") then req.headers:remove(other) end
        end
        req.headers:set(name, value)
      end
    end
  end,

  refresh = function(cred, net, deadline)
    local asked = time.wall()
    local headers, code = net.command({
      program = cred.program, arguments = words(cred.arguments), timeout = cred.timeout * 1000,
    }, deadline)
    if not headers then return nil, code end
    local secrets = {}
    for _, h in ipairs(headers) do
      local name = h[1]:lower()
      local kept = kept_as(name)
      if not name:find("^[%w_-]+$") or #kept > 64 or refused[name] or name:find("^proxy%-") or name:find("^x%-sallyport%-")
        or secrets[kept] then
        return nil, "command_malformed"
      end
      secrets[kept] = h[2]
    end
    return { secrets = secrets, expires_at = asked + cred.ttl }
  end,

  examples = {
    { cred = { program = "helper", state = { h_authorization = "Bearer t1", h_x_team = "blue" } },
      req  = { headers = { authorization = "Bearer placeholder", ["X-Team"] = "red", x_team = "green" } },
      want = { headers = { authorization = "Bearer t1", ["x-team"] = "blue", x_team = false } } },
  },
}
