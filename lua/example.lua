--- Requests of no connection: of policies' examples, of `policy explain` and `credential test`, and of our own to be signed.
local M = {}

--- example.request{ method=, url=, headers = { name = value }, body=, streams=bool } -> req (proxy.c, bind: request)
-- streams: its body was not read. Raises where the parts make no request.
function M.request(o)
  local lines = { (o.method or "GET") .. " " .. (o.url or "https://api.example.com/") .. " HTTP/1.1", "Host: example" }
  for name, value in pairs(o.headers or {}) do
    if type(name) ~= "string" then error("header names are strings", 2) end
    lines[#lines + 1] = name .. ": " .. value
  end
  if o.body then lines[#lines + 1] = "Content-Length: " .. #o.body end
  return require("request").example(table.concat(lines, "\r\n") .. "\r\n\r\n", o.body, o.streams)
end

return M
