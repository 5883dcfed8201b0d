--- What the door answers, by path.
local M = {}

--- handle(q) -> { status =, headers = { { name, value }… }, body = } | { forward = … } (web/door.lua)
function M.handle(q)
  if q.path == "/healthz" then return { status = 200, headers = { { "Content-Type", "text/plain" } }, body = "ok\n" } end
  return { status = 404, headers = { { "Content-Type", "text/plain" } }, body = "there is no such page\n" }
end

return M
