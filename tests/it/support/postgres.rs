//! A database for one test, on the server of `DATABASE_URL`, dropped with the value that stands for
//! it whether or not the test passed or its clients have gone.

use sqlx::postgres::{PgConnection, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection as _};
use url::Url;
use uuid::Uuid;

use super::{finish, report_leftover, services};

/// Connections of a test's own pool. The server has 200 for all tests at once.
const POOL_SIZE: u32 = 5;

/// An empty database that is one test's own.
pub(crate) struct TestDatabase {
    pool: PgPool,
    database: Database,
}

impl TestDatabase {
    /// Makes an empty database with a random name.
    pub(crate) async fn create() -> Self {
        Self::create_on(services::database_url()).await
    }

    /// The same on another server.
    pub(crate) async fn create_on(server: Url) -> Self {
        let name = format!("it_{}", Uuid::new_v4().simple());
        let mut url = server.clone();
        url.set_path(&name);

        // template0, since nobody can be connected to it and so be in the way.
        execute(
            &server,
            format!("create database {name} template template0"),
        )
        .await
        .unwrap_or_else(|err| panic!("can't create a database: {err}"));
        let database = Database { server, name, url };

        let pool = PgPoolOptions::new()
            .max_connections(POOL_SIZE)
            .connect(database.url.as_str())
            .await
            .unwrap_or_else(|err| panic!("can't connect to the new database: {err}"));
        Self { pool, database }
    }

    /// The URL to hand to what is tested.
    pub(crate) fn url(&self) -> &str {
        self.database.url.as_str()
    }

    /// The URL to hand to a worker: whoever connects with it is the role that the migrations made for
    /// workers, and has that role's rights.
    pub(crate) fn worker_url(&self) -> String {
        let mut url = self.database.url.clone();
        url.query_pairs_mut()
            .append_pair("options", "-c role=bridge_worker");
        url.into()
    }

    /// Its name on the server.
    pub(crate) fn name(&self) -> &str {
        &self.database.name
    }

    /// The test's own connections.
    pub(crate) fn pool(&self) -> &PgPool {
        &self.pool
    }
}

/// The database on the server; exists as long as this value.
struct Database {
    server: Url,
    name: String,
    url: Url,
}

impl Drop for Database {
    fn drop(&mut self) {
        let server = self.server.clone();
        // `force` ends the connections that are still open: the pool's, a worker's.
        let sql = format!("drop database if exists {} with (force)", self.name);
        let dropped =
            finish(async move { execute(&server, sql).await.map_err(|err| err.to_string()) });
        report_leftover(&format!("database {}", self.name), dropped);
    }
}

async fn execute(server: &Url, sql: String) -> Result<(), sqlx::Error> {
    let mut connection = PgConnection::connect(server.as_str()).await?;
    sqlx::raw_sql(AssertSqlSafe(sql))
        .execute(&mut connection)
        .await?;
    connection.close().await
}
